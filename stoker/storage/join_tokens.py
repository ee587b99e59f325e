"""One-time join tokens. A token itself is never stored, only its HMAC."""

from datetime import datetime, timedelta

from sqlalchemy import delete, exists, or_, update
from sqlmodel import Session, col, select

from stoker.domain.base import WorkerName
from stoker.domain.join_tokens import JoinTokenProblem, JoinTokenStatus, TokenRefused
from stoker.storage.tables import JoinTokenRow, WorkerRow

SHOWN_FOR = timedelta(days=7)
"""How long an expired token stays listed."""


class JoinTokens:
    """The tokens' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def add(self, token_id: str, digest: str, *, labels: dict[str, str], valid: timedelta) -> JoinTokenStatus:
        """Keeps a new token. Those that expired long ago are forgotten."""
        self._session.execute(delete(JoinTokenRow).where(col(JoinTokenRow.expires_at) < self._now - SHOWN_FOR))
        row = JoinTokenRow(id=token_id, hash=digest, labels=labels, created_at=self._now, expires_at=self._now + valid)
        self._session.add(row)
        self._session.flush()
        return _status(row)

    def look(self, token_id: str, digest: str, worker: WorkerName) -> JoinTokenStatus | TokenRefused:
        """Whether the token would let the worker in now. Uses nothing up."""
        row = self._session.get(JoinTokenRow, token_id, populate_existing=True)
        if row is None or row.hash != digest:
            return TokenRefused(problem=JoinTokenProblem.UNKNOWN)
        status = _status(row)
        if row.expires_at <= self._now:
            return TokenRefused(problem=JoinTokenProblem.EXPIRED, status=status)
        if row.used_at is not None and not self._lost_its_answer(row, worker):
            return TokenRefused(problem=JoinTokenProblem.USED, status=status)
        return status

    def use(self, token_id: str, digest: str, worker: WorkerName) -> JoinTokenStatus | TokenRefused:
        """Uses the token up for the worker: of several that do so at once, one gets it.

        One that used it and never reported since may use it again, while it has not expired: then the answer to its
        joining never reached it. After the first report the token is of no use to anybody.
        """
        reported = exists().where(col(WorkerRow.name) == worker, col(WorkerRow.seen_at) > col(JoinTokenRow.used_at))
        used = (
            update(JoinTokenRow)
            .where(
                col(JoinTokenRow.id) == token_id,
                col(JoinTokenRow.hash) == digest,
                col(JoinTokenRow.expires_at) > self._now,
                or_(col(JoinTokenRow.used_at).is_(None), (col(JoinTokenRow.used_by) == worker) & ~reported),
            )
            .values(used_at=self._now, used_by=worker)
            .returning(col(JoinTokenRow.id))
            .execution_options(synchronize_session=False)
        )
        taken = self._session.execute(used).first() is not None
        if not taken:
            found = self.look(token_id, digest, worker)
            # One who used it up at this very moment may have lost its row again since: to us it was taken.
            return found if isinstance(found, TokenRefused) else TokenRefused(problem=JoinTokenProblem.USED)
        row = self._session.get(JoinTokenRow, token_id, populate_existing=True)
        return _status(row) if row is not None else TokenRefused(problem=JoinTokenProblem.UNKNOWN)

    def remove(self, token_id: str) -> bool:
        """Forgets a token, used or not; False when there is none."""
        row = self._session.get(JoinTokenRow, token_id)
        if row is None:
            return False
        self._session.delete(row)
        return True

    def all(self, *, after: str = "", limit: int | None = None) -> tuple[JoinTokenStatus, ...]:
        """Tokens by id: those that are used or have expired lately, too."""
        query = select(JoinTokenRow).where(col(JoinTokenRow.id) > after).order_by(JoinTokenRow.id).limit(limit)
        return tuple(_status(row) for row in self._session.exec(query))

    def _lost_its_answer(self, row: JoinTokenRow, worker: WorkerName) -> bool:
        if row.used_by != worker or row.used_at is None:
            return False
        known = self._session.get(WorkerRow, worker)
        return known is None or known.seen_at <= row.used_at


def _status(row: JoinTokenRow) -> JoinTokenStatus:
    return JoinTokenStatus.model_validate(row, from_attributes=True)
