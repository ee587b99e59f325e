"""The fleet in memory, brought up to date in the claiming transaction by reading only what changed.

Why it is right:

- Claims and standings (joined, cordoned, draining) change only under the claiming lock, and whoever changes them gives
  the worker a version above all others (`fleet_changes`). So, read under the lock, the workers with a version of at
  least the last one seen are all that can differ: these are read anew, and what is known of the others is exact.
- Only what others committed is ever kept. A ledger reads before it writes and does not add what it writes itself: it
  learns of it the next time, as everybody does. What was rolled back was never here.
- Reports come without the lock, some hundred a second, so they are read once a second (`reports_are_old`), and whenever
  somebody would be told that there is no room (`fresh_reports`). Whether a worker is silent is derived from when it was
  last seen, at every use.
- A crash of the server may take back what was read, and one connection shows that there was none (`learned_before`).
  On one that is younger than what is known, all claims are read anew.
- Versions that went back otherwise (a restored backup) are noticed at once where none is as high as the last one seen,
  else within a second, when those of all workers are compared. All claims are then read anew, too.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, select
from sqlmodel import Session

from stoker.domain.base import DeviceId, WorkerName
from stoker.domain.placement.fleet import Fleet, Host
from stoker.domain.workers import Worker, WorkerState
from stoker.storage.engine import learned_before
from stoker.storage.tables import ClaimRow, FleetChangeRow, WorkerRow, table_of
from stoker.storage.workers import UNREACHABLE_AFTER, state_of

REPORTS_SECONDS = 1.0
"""What a worker reported may be known so much later."""

_AT_ONCE = 500  # reports read with one question
_LONG_AGO, _NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

_WORKERS, _CHANGED, _CLAIMS = table_of(WorkerRow).c, table_of(FleetChangeRow).c, table_of(ClaimRow).c
_ROW = (_WORKERS.name, _WORKERS.report_version, _WORKERS.seen_at, _WORKERS.cordoned, _WORKERS.draining)
_ROWS = select(*_ROW)
_REPORTS = select(_WORKERS.name, _WORKERS.report_version, _WORKERS.report).where(
    _WORKERS.name.in_(bindparam("names", expanding=True))
)
_VERSIONS = select(_CHANGED.worker, _CHANGED.version)
_CHANGES = (
    select(_CHANGED.worker, _CHANGED.version, _CLAIMS.device, _CLAIMS.size, *_ROW)
    .select_from(table_of(FleetChangeRow))
    .join(table_of(WorkerRow), _WORKERS.name == _CHANGED.worker, isouter=True)
    .join(table_of(ClaimRow), _CLAIMS.worker == _CHANGED.worker, isouter=True)
    .where(_CHANGED.version >= bindparam("since"))
)


@dataclass(frozen=True)
class _Row:
    """What a worker's row says beside its report."""

    name: WorkerName
    report_version: int
    seen_at: datetime
    cordoned: bool
    draining: bool

    def state(self, now: datetime) -> WorkerState:
        """The worker's, at that moment."""
        return state_of(cordoned=self.cordoned, draining=self.draining, silent=now - self.seen_at)


class FleetCache:
    """One ledger's view of the fleet. One thread at a time; in a transaction, before it writes anything."""

    def __init__(self) -> None:
        self._rows: dict[WorkerName, _Row] = {}
        self._reports: dict[WorkerName, tuple[int, Worker]] = {}  # with the version of the report
        self._reports_read_at = float("-inf")
        self._last_version = 0
        self._learned_at = float("-inf")  # when claims were last read; monotonic seconds
        self._versions: dict[WorkerName, int] = {}
        self._claimed: dict[WorkerName, dict[DeviceId, int]] = {}  # of workers without a row too
        self._fleet = Fleet({})
        self._outdated: set[WorkerName] = set()  # whose hosts in the fleet are to be made anew
        self._silent_from = _NEVER  # nobody falls silent before

    @property
    def reports_are_old(self) -> bool:
        """Whether it is time for `read_reports`."""
        return time.monotonic() - self._reports_read_at >= REPORTS_SECONDS

    def fleet(self, session: Session, now: datetime, *, fresh_reports: bool = False) -> Fleet:
        """The fleet as this transaction finds it; the same object as before if nothing changed."""
        if fresh_reports:
            self.read_reports(session)
        self._read_changes(session)
        self._find_silent(now)
        if self._outdated:
            self._fleet = self._remade(now)
            self._outdated = set()
        return self._fleet

    def read_reports(self, session: Session) -> None:
        """Learns what workers reported since, and checks that all versions belong to one history."""
        began = time.monotonic()
        there = dict(session.execute(_VERSIONS).all())
        old = {worker: version for worker, version in there.items() if version <= self._last_version}
        if old != {name: known for name, known in self._versions.items() if there.get(name, 0) <= self._last_version}:
            self._distrust()
        rows = [_Row(*row) for row in session.execute(_ROWS)]
        for name in self._rows.keys() - {row.name for row in rows}:
            del self._rows[name]
            self._reports.pop(name, None)
            self._outdated.add(name)
        self._take(session, rows)
        self._silent_from = _LONG_AGO
        self._reports_read_at = began

    def _read_changes(self, session: Session) -> None:
        if not learned_before(session, self._learned_at):
            self._distrust()
        asked_at = time.monotonic()
        found = session.execute(_CHANGES, {"since": self._last_version}).all()
        if not found and self._last_version:
            self._distrust()
            found = session.execute(_CHANGES, {"since": 0}).all()
        self._learned_at = asked_at  # not of a question that the crash itself left without an answer
        changed: dict[WorkerName, dict[DeviceId, int]] = {}
        rows: dict[WorkerName, _Row] = {}
        for worker, version, device, size, *row in found:
            if worker not in changed:
                if self._versions.get(worker) == version:
                    continue  # the last change that is known
                changed[worker] = {}
                self._versions[worker] = version
                self._last_version = max(self._last_version, version)
                if row[0] is not None:
                    rows[worker] = _Row(*row)
                else:  # removed: nothing may be placed there from now on
                    self._rows.pop(worker, None)
                    self._reports.pop(worker, None)
            if device is not None:
                changed[worker][device] = changed[worker].get(device, 0) + size
        self._claimed |= changed
        self._outdated |= changed.keys()
        self._take(session, rows.values())

    def _distrust(self) -> None:
        """The versions are of another history: what is known of claims counts for nothing."""
        self._outdated |= self._claimed.keys()
        self._last_version, self._versions, self._claimed = 0, {}, {}

    def _take(self, session: Session, rows: Collection[_Row]) -> None:
        """Takes workers' rows, and reads the reports among them that say something new."""
        for row in rows:
            self._rows[row.name] = row
            self._silent_from = min(self._silent_from, row.seen_at + UNREACHABLE_AFTER)
        unread = [row.name for row in rows if self._reports.get(row.name, (0,))[0] != row.report_version]
        for first in range(0, len(unread), _AT_ONCE):
            some = {"names": unread[first : first + _AT_ONCE]}
            for name, version, report in session.execute(_REPORTS, some):
                self._reports[name] = version, Worker.model_validate(report)
                self._outdated.add(name)

    def _find_silent(self, now: datetime) -> None:
        """Finds those whose state is another by now. Only when the next one falls silent are all looked at."""
        if now <= self._silent_from:
            return
        hosts = self._fleet.hosts
        for name, row in self._rows.items():
            if (host := hosts.get(name)) is None or host.worker.state is not row.state(now):
                self._outdated.add(name)
        ends = (row.seen_at + UNREACHABLE_AFTER for row in self._rows.values())
        self._silent_from = min((end for end in ends if now <= end), default=_NEVER)

    def _remade(self, now: datetime) -> Fleet:
        hosts = dict(self._fleet.hosts)
        for name in self._outdated:
            row, (_, worker) = self._rows.get(name), self._reports.get(name, (0, None))
            if row is None or worker is None:
                hosts.pop(name, None)
                continue
            state = row.state(now)
            worker = worker if worker.state is state else worker.model_copy(update={"state": state})
            hosts[name] = Host(worker, self._claimed.get(name, {}))
        return Fleet(hosts if len(hosts) == len(self._fleet.hosts) else dict(sorted(hosts.items())))
