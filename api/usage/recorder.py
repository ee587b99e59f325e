"""Keeps records of requests: in memory for a second, then in the database, and on disk while that is away.

A record is made on the hot path: it is appended, and counted in a mapped file. Two threads do the rest. One closes a
batch each second, and puts what the database did not confirm by the next one into the spool. The other one sends, the
oldest first, again and again until it is confirmed; a batch has a number, by which the database knows it.

What a process that was killed left behind is sent by the next one. What it had in memory is lost, a second's at most,
and the mapped file tells how much that was.

Where the spool is full or cannot be written, a bounded number of records waits in memory. Past that the newest are
dropped, counted and spoken of: what is kept stays whole up to a known moment.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.background_writer import NEVER_TAKEN, BackgroundWriter, Chore
from api.usage.spool import Spool, SpoolFullError
from api.usage.tally import DROPPED, MADE, REFUSED, Tally
from stoker.domain.usage import UsageRecord
from stoker.storage.engine import Database
from stoker.storage.usage_writing import Batch, forget_recorder, write_batches

log = structlog.get_logger()

BATCH_EVERY_SECONDS = 1.0
LARGEST_BATCH = 500  # records: to read or write so many as JSON holds up other threads for less than a millisecond
MOST_IN_MEMORY = 50_000  # records, about 15 MB
SPOOL_BYTES = 1024**3

_LEFT_EVERY_SECONDS = 30.0  # to look for what other processes left behind


class UsageRecorder(Collector):
    """One process's, and a collector of its own metrics. `record` is for one thread; it never waits or raises."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        clock: Callable[[], datetime],
        *,
        spool_bytes: int = SPOOL_BYTES,
        most_in_memory: int = MOST_IN_MEMORY,
    ) -> None:
        """`folder`, of this server's processes alone, keeps what waits. Raises OSError when it cannot be written."""
        self._database, self._folder, self._clock = database, folder, clock
        self._spool_bytes, self._most = spool_bytes, most_in_memory
        self._tally = Tally.new(folder)
        self._numbers = self._tally.numbers
        self._room = most_in_memory
        self._made: deque[UsageRecord] = deque()
        self._written = 0  # records of ours that the database has confirmed
        self._lost_by_others = 0
        self._changed = threading.Condition()  # holds all below
        self._spool = Spool(self._tally.spool, spool_bytes)
        self._held: deque[Batch] = deque()  # unconfirmed, and not in the spool
        self._batches = 0
        self._stop = threading.Event()
        self._batcher = threading.Thread(target=self._batch_for_ever, name="usage-batches", daemon=True)
        self._writer = BackgroundWriter(
            "usage",
            self._changed,
            waits=lambda: self._held or self._spool.records,
            first=self._first,
            send=self._send,
            chore=Chore(self._send_what_others_left, _LEFT_EVERY_SECONDS),
        )

    def record(self, record: UsageRecord) -> None:
        """Keeps one more."""
        numbers = self._numbers
        numbers[MADE] += 1
        if len(self._made) < self._room:
            self._made.append(record)
        else:  # nobody has taken any for long
            numbers[REFUSED] += 1

    def start(self) -> None:
        """Begins to write."""
        self._batcher.start()
        self._writer.start()

    def close(self, within: float) -> None:
        """Writes everything, for up to so many seconds; what the database has not taken by then waits on disk for the
        next process. No record may be made after this. Blocks."""
        self._stop.set()
        if self._batcher.is_alive():
            self._batcher.join()
        self._close_batch()
        self._writer.close(within)
        with self._changed:
            self._put_into_spool()
            waiting = self._tally.to_be_written - self._written
            self._numbers = memoryview(bytearray(24)).cast("Q")  # a late record disturbs nobody
            if waiting:
                self._spool.close()
                self._tally.close()
                log.warning("usage_records_left", records=waiting, folder=str(self._folder))
                return
            self._spool.remove()
            recorder = self._tally.recorder
            self._tally.remove()
        self._forget(recorder)

    @property
    def waiting(self) -> int:
        """Records that are not in the database yet."""
        made, refused, dropped = self._numbers
        return max(0, made - refused - dropped - self._written)

    @property
    def spooled(self) -> int:
        """Those of them that are on disk."""
        return self._spool.records

    @property
    def lost(self) -> int:
        """Records that never will be there: dropped by this process, or missing from one that died."""
        return self._numbers[REFUSED] + self._numbers[DROPPED] + self._lost_by_others

    def describe(self) -> list[Metric]:
        """The metrics, of which each has one series."""
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        yield GaugeMetricFamily(
            "stoker_usage_records_waiting", "Records of requests that are not in the database yet.", value=self.waiting
        )
        yield CounterMetricFamily(
            "stoker_usage_records_lost",
            "Records of requests that never come into the database: their process was killed, or nothing had room.",
            value=self.lost,
        )

    def _batch_for_ever(self) -> None:
        while not self._stop.wait(BATCH_EVERY_SECONDS):
            try:
                self._close_batch()
            except Exception:  # the last guard: a recorder that has ended would lose all from then on
                log.exception("usage_batches_crashed")

    def _close_batch(self) -> None:
        """What was made since the last time becomes a batch. What was unconfirmed before goes into the spool."""
        with self._changed:
            self._put_into_spool()
            count = len(self._made)
            while count:
                some = [self._made.popleft() for _ in range(min(count, LARGEST_BATCH))]
                count -= len(some)
                self._batches += 1
                self._hold(Batch(self._batches, some))
            if self._spool.records:  # these are younger: they go behind
                self._put_into_spool()
            self._changed.notify_all()

    def _hold(self, batch: Batch) -> None:
        held = sum(len(one.records) for one in self._held)
        if held + len(batch.records) > self._most:
            self._numbers[DROPPED] += len(batch.records)
            log.error("usage_records_dropped", records=len(batch.records), held=held)
        else:
            self._held.append(batch)

    def _put_into_spool(self) -> None:
        if not self._held:
            return
        try:
            while self._held:
                self._spool.append(self._held[0])
                self._held.popleft()
            self._spool.sync()
        except (OSError, SpoolFullError) as error:
            log.error("usage_spool_not_written", error=str(error), batches_held=len(self._held))

    def _first(self) -> Sequence[Batch]:
        return self._spool.first(LARGEST_BATCH) if self._spool.records else tuple(self._held)

    def _send(self, batches: Sequence[Batch]) -> None:
        self._write(self._tally.recorder, batches)
        number = batches[-1].number
        with self._changed:
            self._written += sum(len(batch.records) for batch in batches)
            while self._held and self._held[0].number <= number:
                self._held.popleft()
            if not self._writer.given_up:
                self._spool.drop_through(number)

    def _write(self, recorder: str, batches: Sequence[Batch]) -> int:
        """Sends them; returns how many records of the recorder are in the database then. Raises SQLAlchemyError."""
        try:
            with self._database.write() as session:
                return write_batches(session, recorder, batches, self._clock())
        except NEVER_TAKEN as error:
            if len(batches) > 1:
                return [self._write(recorder, [batch]) for batch in batches][-1]
            if not batches:
                raise
            count = len(batches[0].records)
            log.error("usage_records_not_taken", records=count, error=type(error).__name__)
            if recorder == self._tally.recorder:
                self._numbers[DROPPED] += count
                self._written -= count  # it will be confirmed, as if it were there
            return self._write(recorder, ())

    def _send_what_others_left(self) -> None:
        for tally in Tally.left(self._folder):
            spool = Spool(tally.spool, self._spool_bytes)
            try:
                while batches := spool.first(LARGEST_BATCH):
                    if self._writer.stopping:  # it is left to the next one
                        spool.close()
                        tally.close()
                        return
                    self._write(tally.recorder, batches)
                    spool.drop_through(batches[-1].number)
                written = self._write(tally.recorder, ())
            except BaseException:
                spool.close()
                tally.close()
                raise
            lost = max(0, tally.to_be_written - written)
            spool.remove()
            tally.remove()
            self._lost_by_others += lost
            log.log(30 if lost else 20, "usage_of_a_dead_process", recorder=tally.recorder, written=written, lost=lost)
            self._forget(tally.recorder)

    def _forget(self, recorder: str) -> None:
        try:
            with self._database.write() as session:
                forget_recorder(session, recorder)
        except SQLAlchemyError as error:  # a row too many harms nobody, and goes in time
            log.warning("usage_recorder_not_forgotten", recorder=recorder, error=str(error))
