"""Workers: who joined, and what each last reported."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from stoker.domain.base import WorkerName
from stoker.domain.claims import Claim
from stoker.domain.statuses import WorkerStatus
from stoker.domain.workers import Worker, WorkerState
from stoker.storage.tables import ClaimRow, WorkerRow

UNREACHABLE_AFTER = timedelta(seconds=30)
"""Six missed reports: past it a worker gets nothing new. What runs there is judged by its own engine's answers."""


class Workers:
    """The workers' repository within one session. Whether a worker is reachable is derived at every read."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def join(self, worker: Worker, *, credential_hash: str, engine_secret: str) -> str:
        """Adds a worker, or lets a known one join again with a new credential. Returns the engine secret that holds.

        A known worker keeps its claims, its cordon and its engine secret: engines that run there were started with it.
        """
        row = self._session.get(WorkerRow, worker.name)
        if row is None:
            row = WorkerRow(
                name=worker.name,
                report={},
                credential_hash="",
                engine_secret=engine_secret,
                joined_at=self._now,
                seen_at=self._now,
            )
        row.credential_hash = credential_hash
        self._take_report(row, worker)
        return row.engine_secret

    def report(self, worker: Worker) -> bool:
        """Keeps what the worker reports now; False when it never joined."""
        row = self._session.get(WorkerRow, worker.name)
        if row is None:
            return False
        self._take_report(row, worker)
        return True

    def _take_report(self, row: WorkerRow, worker: Worker) -> None:
        row.report = worker.model_dump(mode="json")
        row.seen_at = self._now
        self._session.add(row)

    def cordon(self, name: WorkerName, cordoned: bool) -> bool:
        """Sets or lifts the cordon; False when there is no such worker."""
        row = self._session.get(WorkerRow, name)
        if row is None:
            return False
        row.cordoned = cordoned
        self._session.add(row)
        return True

    def credential_hash(self, name: WorkerName) -> str | None:
        """The HMAC of the worker's credential, or None when there is no such worker."""
        row = self._session.get(WorkerRow, name)
        return row.credential_hash if row else None

    def engine_secrets(self) -> dict[WorkerName, str]:
        """The secret of each worker from which its engines' keys are derived."""
        return {row.name: row.engine_secret for row in self._session.exec(select(WorkerRow))}

    def get(self, name: WorkerName) -> WorkerStatus | None:
        """One worker with its claims, or None."""
        return next(iter(self._statuses(only=name)), None)

    def all(self) -> tuple[WorkerStatus, ...]:
        """All workers with their claims, by name."""
        return tuple(self._statuses())

    def _statuses(self, only: WorkerName | None = None) -> list[WorkerStatus]:
        workers = select(WorkerRow).order_by(WorkerRow.name)
        claims = select(ClaimRow).order_by(ClaimRow.instance_id, col(ClaimRow.device))
        if only is not None:
            workers, claims = workers.where(WorkerRow.name == only), claims.where(ClaimRow.worker == only)
        rows = self._session.exec(workers).all()
        return _with_claims(rows, self._session.exec(claims).all(), self._now)


def _with_claims(rows: Sequence[WorkerRow], claims: Sequence[ClaimRow], now: datetime) -> list[WorkerStatus]:
    by_worker: dict[str, list[Claim]] = {row.name: [] for row in rows}
    for claim in claims:
        by_worker.setdefault(claim.worker, []).append(Claim.model_validate(claim, from_attributes=True))
    return [
        WorkerStatus(
            worker=_worker(row, now),
            claims=tuple(by_worker[row.name]),
            joined_at=row.joined_at,
            seen_at=row.seen_at,
        )
        for row in rows
    ]


def _worker(row: WorkerRow, now: datetime) -> Worker:
    state = WorkerState.CORDONED if row.cordoned else WorkerState.READY
    if now - row.seen_at > UNREACHABLE_AFTER:
        state = WorkerState.UNREACHABLE
    return Worker.model_validate({**row.report, "state": state})
