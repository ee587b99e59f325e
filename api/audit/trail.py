"""Keeps entries of the audit log: in memory until the database has them, a moment later, and in our log at once.

A thread writes. While the database is away entries wait, up to a bound; past it the newest stay in our log only, and
are counted. So are those of strangers past a number a minute: who has no admin key must not be able to fill the table.
An entry whose commit nobody heard of is written again: twice is better than never.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.background_writer import NEVER_TAKEN, BackgroundWriter, Chore
from stoker.domain.audit import UNANSWERED, AuditEntry
from stoker.storage.audit import forget_entries, write_entries
from stoker.storage.engine import Database

log = structlog.get_logger()

MOST_IN_MEMORY = 10_000  # entries; most are less than 1 KB
STRANGERS_A_MINUTE = 60
FORGET_EVERY_SECONDS = 600.0

_BATCH = 200
_FULL, _STRANGERS, _UNWRITABLE = "full", "strangers", "unwritable"


class AuditTrail(Collector):
    """One process's, and a collector of its own metrics."""

    def __init__(
        self, database: Database, clock: Callable[[], datetime], days: int, *, most_in_memory: int = MOST_IN_MEMORY
    ) -> None:
        """Entries are kept for so many `days`."""
        self._database, self._clock, self._days, self._most = database, clock, days, most_in_memory
        self._changed = threading.Condition()  # holds all below
        self._waiting: deque[AuditEntry] = deque()
        self._lost: Counter[str] = Counter({_FULL: 0, _STRANGERS: 0, _UNWRITABLE: 0})
        self._minute: datetime | None = None  # that strangers were last counted in
        self._strangers = 0
        self._writer = BackgroundWriter(
            "audit",
            self._changed,
            waits=lambda: self._waiting,
            first=lambda: tuple(islice(self._waiting, _BATCH)),
            send=self._write,
            chore=Chore(self._forget, FORGET_EVERY_SECONDS),
        )

    def record(self, entry: AuditEntry) -> None:
        """Keeps one more. Never waits for the database, and never raises."""
        log.info("change_asked", **entry.model_dump(mode="json", exclude={"at", "request_id"}))
        with self._changed:
            if self._is_one_too_many(entry):
                self._lost[_STRANGERS] += 1
            elif len(self._waiting) >= self._most:
                self._lost[_FULL] += 1
                log.error("audit_entry_lost", waiting=len(self._waiting))
            else:
                self._waiting.append(entry)
                self._changed.notify_all()

    def start(self) -> None:
        """Begins to write, and to forget."""
        self._writer.start()

    def close(self, within: float) -> None:
        """Writes everything, for up to so many seconds. Blocks."""
        self._writer.close(within)
        with self._changed:
            if self._waiting:
                log.error("audit_entries_left", entries=len(self._waiting), remedy="they are in this log")

    def describe(self) -> list[Metric]:
        """The metrics, of which the names and labels never change."""
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        yield GaugeMetricFamily(
            "stoker_audit_entries_waiting", "Entries of the audit log not in the database yet.", len(self._waiting)
        )
        lost = CounterMetricFamily(
            "stoker_audit_entries_lost",
            "Entries of the audit log that are in the process's log only.",
            labels=["reason"],
        )
        for reason, count in self._lost.items():
            lost.add_metric([reason], count)
        yield lost

    def _is_one_too_many(self, entry: AuditEntry) -> bool:
        refused = entry.refused or entry.status == UNANSWERED  # who goes before the answer was not let in either
        if not refused or (entry.key_id and entry.status not in (401, 403)):
            return False
        minute = entry.at.replace(second=0, microsecond=0)
        if minute != self._minute:
            self._minute, self._strangers = minute, 0
        self._strangers += 1
        return self._strangers > STRANGERS_A_MINUTE

    def _write(self, entries: Sequence[AuditEntry]) -> None:
        """Writes the oldest ones that wait, and lets go of them. Raises SQLAlchemyError."""
        try:
            with self._database.write() as session:
                write_entries(session, entries)
        except NEVER_TAKEN as error:
            if len(entries) > 1:
                for entry in entries:
                    self._write([entry])
                return
            self._lost[_UNWRITABLE] += 1
            log.error("audit_entry_not_taken", error=type(error).__name__)
        with self._changed:
            for _ in entries:
                self._waiting.popleft()

    def _forget(self) -> None:
        before = self._clock() - timedelta(days=self._days)
        while not self._writer.stopping:
            try:
                with self._database.write() as session:
                    count = forget_entries(session, before)
            except SQLAlchemyError as error:  # a day too many harms nobody: not before the next time
                log.warning("audit_not_forgotten", error=str(error))
                return
            if not count:
                return
            log.info("audit_forgotten", entries=count)
