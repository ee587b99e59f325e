"""API keys. A key itself is never stored, only its HMAC."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import update
from sqlmodel import Session, col, or_, select

from stoker.domain.keys import KeyLimits, KeyStatus, Role
from stoker.storage.tables import KeyChangeRow, KeyRow


class LivingKeys(NamedTuple):
    """The keys that open something."""

    known: dict[str, tuple[KeyStatus, str]]  # status and HMAC, by id
    unreadable: tuple[str, ...]  # ids of keys that this version cannot read: they open nothing


class Keys:
    """The keys' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def add(
        self,
        key_id: str,
        name: str,
        role: Role,
        digest: str,
        *,
        expires_at: datetime | None = None,
        models: Iterable[str] = (),
        limits: KeyLimits | None = None,
    ) -> KeyStatus:
        """Keeps a new key."""
        row = KeyRow(
            id=key_id,
            name=name,
            role=role.value,
            hash=digest,
            created_at=self._now,
            expires_at=expires_at,
            models=list(models),
            limits=_stored(limits or KeyLimits()),
        )
        self._session.add(row)
        self._session.flush()
        self.changed()
        return _status(row)

    def get(self, key_id: str, *, to_change: bool = False) -> KeyStatus | None:
        """One key, revoked or not. `to_change`: nobody else changes it until the transaction ends."""
        row = self._session.get(KeyRow, key_id, with_for_update=to_change)
        return _status(row) if row is not None else None

    def put(self, status: KeyStatus) -> bool:
        """Keeps a key's name, expiry, models and limits; False when there is no such key, or it is revoked."""
        changed = (
            update(KeyRow)
            .where(col(KeyRow.id) == status.id, col(KeyRow.revoked_at).is_(None))
            .values(
                name=status.name,
                expires_at=status.expires_at,
                models=list(status.models),
                limits=_stored(status.limits),
            )
            .returning(col(KeyRow.id))
        )
        found = self._session.execute(changed).first() is not None
        if found:
            self.changed()
        return found

    def revoke(self, key_id: str) -> bool:
        """Ends a key for good; False when there is none. Revoking twice keeps the first time."""
        row = self._session.get(KeyRow, key_id)
        if row is None:
            return False
        row.revoked_at = row.revoked_at or self._now
        self._session.add(row)
        self._session.flush()
        self.changed()
        return True

    def all(self, *, after: str = "", limit: int | None = None) -> tuple[KeyStatus, ...]:
        """Keys by id, revoked ones too."""
        query = select(KeyRow).where(col(KeyRow.id) > after).order_by(KeyRow.id).limit(limit)
        return tuple(_status(row) for row in self._session.exec(query))

    def version(self) -> int:
        """A number that is another one after every change of a key, and every end of a session."""
        return self._session.exec(select(KeyChangeRow.version)).first() or 0

    def living(self) -> LivingKeys:
        """The keys that are neither revoked nor expired."""
        living = or_(col(KeyRow.expires_at).is_(None), col(KeyRow.expires_at) > self._now)
        known: dict[str, tuple[KeyStatus, str]] = {}
        unreadable: list[str] = []
        for row in self._session.exec(select(KeyRow).where(col(KeyRow.revoked_at).is_(None), living)):
            try:
                known[row.id] = (_status(row), row.hash)
            except ValidationError:
                unreadable.append(row.id)
        return LivingKeys(known, tuple(unreadable))

    def digests(self) -> dict[str, tuple[KeyStatus, str]]:
        """Each living key's status and HMAC, by id."""
        return self.living().known

    def changed(self) -> None:
        """Makes `version()` another one, so that who keeps keys and ended sessions in memory reads them again."""
        # The row is locked until the transaction ends, so that versions are seen in their order.
        self._session.execute(update(KeyChangeRow).values(version=col(KeyChangeRow.version) + 1))


def _stored(limits: KeyLimits) -> dict[str, Any]:
    return limits.model_dump(exclude_none=True)


def _status(row: KeyRow) -> KeyStatus:
    return KeyStatus.model_validate(row, from_attributes=True)
