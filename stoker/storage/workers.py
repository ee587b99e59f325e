"""Workers: who joined, and what each last reported."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, func, inspect, select, update
from sqlmodel import Session

from stoker.domain.base import WorkerName
from stoker.domain.claims import Claim
from stoker.domain.statuses import WorkerStatus
from stoker.domain.workers import Worker, WorkerState
from stoker.storage.engine import commit_without_disk, take_claiming_lock
from stoker.storage.fleet_changes import mark_changed
from stoker.storage.tables import ClaimRow, FleetChangeRow, WorkerRow, table_of

UNREACHABLE_AFTER = timedelta(seconds=30)
"""Six missed reports: past it a worker gets nothing new. What runs there is judged by its own engine's answers."""

_LARGEST_FIRST_VERSION = 1 << 40  # of a worker's report

_WORKERS, _CLAIMS = table_of(WorkerRow), table_of(ClaimRow)
_C = _WORKERS.c
_STATUSES = select(_C.name, _C.report, _C.cordoned, _C.draining, _C.joined_at, _C.seen_at).order_by(_C.name)
_CLAIMED = select(_CLAIMS).order_by(_CLAIMS.c.instance_id, _CLAIMS.c.device)
_MARKS = select(_C.name, _C.report_version, _C.cordoned, _C.draining, _C.seen_at).order_by(_C.name)
_LAST_CHANGE = select(func.coalesce(func.max(table_of(FleetChangeRow).c.version), 0))
_LAST_REPORT = select(_C.report).where(_C.name == bindparam("name"))
_REPORTED = update(_WORKERS).where(_C.name == bindparam("reporter")).returning(_C.name)
_CREDENTIAL = select(_C.credential_hash).where(_C.name == bindparam("name"))
_HELD = select(_C.name).where(_C.name == bindparam("name")).with_for_update()


class Workers:
    """The workers' repository within one session. Whether a worker is reachable is derived at every read."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def join(self, worker: Worker, *, credential_hash: str, engine_secret: str, settled: bool = True) -> str:
        """Adds a worker, or lets a known one join again with a new credential. Returns the engine secret that holds.

        A known worker keeps its claims, its cordon and its engine secret: engines that run there were started with it.
        `settled`: as of a report; one that is not gets nothing before it is.
        """
        take_claiming_lock(self._session)
        row = self._session.get(WorkerRow, worker.name)
        if row is None:
            row = WorkerRow(
                name=worker.name,
                report={},
                credential_hash="",
                engine_secret=engine_secret,
                joined_at=self._now,
                seen_at=self._now if settled else self._now - 2 * UNREACHABLE_AFTER,  # as if it had been silent
            )
        row.credential_hash = credential_hash
        content = worker.model_dump(mode="json")
        if inspect(row).transient:  # its first version may not hide behind that of one of the same name, now removed
            row.report_version = secrets.randbelow(_LARGEST_FIRST_VERSION) + 1
        elif row.report != content:
            row.report_version = _C.report_version + 1  # type: ignore[assignment]
        row.report = content
        if settled:
            row.seen_at = self._now
        self._session.add(row)
        mark_changed(self._session, [worker.name])
        return row.engine_secret

    def report(self, worker: Worker, *, settled: bool = True, before: Mapping[str, Any] | None = None) -> bool:
        """Keeps what the worker reports now; False when it never joined, or was removed.

        Of one that is not `settled` (`WorkerReport`) it is no sign of life: it stays as unreachable as it was.
        `before`: the report that its row has now; None: not read yet.
        The transaction does not wait for the disk: what a crash loses of it, the next report says again.
        """
        if before is None:
            commit_without_disk(self._session)
            before = self._session.execute(_LAST_REPORT, {"name": worker.name}).scalar()
        if before is None:
            return False
        content = worker.model_dump(mode="json")
        changed: dict[str, Any] = {"seen_at": self._now} if settled else {}
        if before != content:
            # The database adds: of two reports at once none may hide behind the other's number.
            changed |= {"report": content, "report_version": _C.report_version + 1}
        if not changed:
            return True
        return self._session.execute(_REPORTED.values(changed), {"reporter": worker.name}).one_or_none() is not None

    def cordon(self, name: WorkerName, cordoned: bool) -> bool:
        """Sets the cordon, or lifts it and ends draining too; False when there is no such worker."""
        return self._stand(name, cordoned=cordoned, draining=None if cordoned else False)

    def set_draining(self, name: WorkerName, draining: bool) -> bool:
        """Says whether the worker gives away what it has. One that does is cordoned, and stays so afterwards.

        False when there is no such worker.
        """
        return self._stand(name, cordoned=True if draining else None, draining=draining)

    def _stand(self, name: WorkerName, *, cordoned: bool | None, draining: bool | None) -> bool:
        """Changes what is not None."""
        take_claiming_lock(self._session)
        row = self._session.get(WorkerRow, name)
        if row is None:
            return False
        row.cordoned = row.cordoned if cordoned is None else cordoned
        row.draining = row.draining if draining is None else draining
        self._session.add(row)
        mark_changed(self._session, [name])
        return True

    def hold(self, name: WorkerName) -> bool:
        """Whether there is such a worker; it cannot be removed before this transaction ends."""
        return self._session.execute(_HELD, {"name": name}).one_or_none() is not None

    def credential_hash(self, name: WorkerName) -> str | None:
        """The HMAC of the worker's credential, or None when there is no such worker."""
        return self._session.execute(_CREDENTIAL, {"name": name}).scalar()

    def engine_secrets(self) -> dict[WorkerName, str]:
        """The secret of each worker from which its engines' keys are derived."""
        return {row[0]: row[1] for row in self._session.execute(select(_C.name, _C.engine_secret))}

    def get(self, name: WorkerName) -> WorkerStatus | None:
        """One worker with its claims, or None."""
        return next(iter(self._statuses(only=name)), None)

    def all(self) -> tuple[WorkerStatus, ...]:
        """All workers with their claims, by name."""
        return tuple(self._statuses())

    def marks(self) -> tuple[object, ...]:
        """What is unequal to what it was when any worker, its claims or its state has changed: cheap, also of many."""
        found = [(row.name, row.report_version, _state(row, self._now)) for row in self._session.execute(_MARKS)]
        return (self._session.execute(_LAST_CHANGE).scalar_one(), *found)

    def _statuses(self, only: WorkerName | None = None) -> list[WorkerStatus]:
        workers, claims = _STATUSES, _CLAIMED
        if only is not None:
            workers, claims = workers.where(_C.name == only), claims.where(_CLAIMS.c.worker == only)
        rows = self._session.execute(workers).all()
        return _with_claims(rows, self._session.execute(claims).all(), self._now)


def _with_claims(rows: Sequence[Row[Any]], claims: Sequence[Row[Any]], now: datetime) -> list[WorkerStatus]:
    by_worker: dict[str, list[Claim]] = {row.name: [] for row in rows}
    for claim in claims:
        by_worker.setdefault(claim.worker, []).append(Claim(**claim._mapping))
    return [
        WorkerStatus(
            worker=_worker(row, now),
            claims=tuple(by_worker[row.name]),
            joined_at=row.joined_at,
            seen_at=row.seen_at,
        )
        for row in rows
    ]


def _worker(row: Row[Any], now: datetime) -> Worker:
    return Worker.model_validate({**row.report, "state": _state(row, now)})


def _state(row: Row[Any], now: datetime) -> WorkerState:
    return state_of(cordoned=row.cordoned, draining=row.draining, silent=now - row.seen_at)


def state_of(*, cordoned: bool, draining: bool, silent: timedelta) -> WorkerState:
    """What a worker's row makes of it; `silent`: time since its last report."""
    if silent > UNREACHABLE_AFTER:
        return WorkerState.UNREACHABLE
    if draining:
        return WorkerState.DRAINING
    return WorkerState.CORDONED if cordoned else WorkerState.READY
