"""API keys. A key itself is never stored, only its HMAC."""

from datetime import datetime

from sqlmodel import Session, col, select

from stoker.domain.keys import KeyStatus, Role
from stoker.storage.tables import KeyRow


class Keys:
    """The keys' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def add(self, key_id: str, name: str, role: Role, digest: str) -> KeyStatus:
        """Keeps a new key."""
        row = KeyRow(id=key_id, name=name, role=role.value, hash=digest, created_at=self._now)
        self._session.add(row)
        self._session.flush()
        return _status(row)

    def revoke(self, key_id: str) -> bool:
        """Ends a key for good; False when there is none. Revoking twice keeps the first time."""
        row = self._session.get(KeyRow, key_id)
        if row is None:
            return False
        row.revoked_at = row.revoked_at or self._now
        self._session.add(row)
        return True

    def all(self, *, after: str = "", limit: int | None = None) -> tuple[KeyStatus, ...]:
        """Keys by id, revoked ones too."""
        query = select(KeyRow).where(col(KeyRow.id) > after).order_by(KeyRow.id).limit(limit)
        return tuple(_status(row) for row in self._session.exec(query))

    def digests(self) -> dict[str, tuple[KeyStatus, str]]:
        """Each living key's status and HMAC, by id."""
        query = select(KeyRow).where(col(KeyRow.revoked_at).is_(None))
        return {row.id: (_status(row), row.hash) for row in self._session.exec(query)}


def _status(row: KeyRow) -> KeyStatus:
    return KeyStatus.model_validate(row, from_attributes=True)
