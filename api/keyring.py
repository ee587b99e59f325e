"""Who is asking: API keys, and sessions that were ended, checked from memory, so that the database may be away."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.openai.auth import Principal
from stoker.domain.keys import KeyLimits, KeyStatus
from stoker.secrets import ServerSecret, key_id_of
from stoker.storage.ended_sessions import EndedSessions
from stoker.storage.engine import Database
from stoker.storage.keys import Keys, LivingKeys

log = structlog.get_logger()

REFRESH_SECONDS = 0.4
"""A key that was made, changed or revoked elsewhere counts within this time, and that of a small query."""

REREAD_SECONDS = 10.0
"""All keys are read again so often, for what somebody changed in the database by hand."""

_NO_LIMITS = KeyLimits()


class _Known(NamedTuple):
    """A living key."""

    status: KeyStatus
    principal: Principal
    digest: str


class _Found(NamedTuple):
    """What the database has."""

    keys: LivingKeys
    ended: frozenset[str]  # sessions


class KeyRing:
    """The living keys, as last read."""

    def __init__(
        self,
        database: Database,
        secret: ServerSecret,
        clock: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._secret, self._clock, self._monotonic = database, secret, clock, monotonic
        self._known: dict[str, _Known] = {}
        self._unreadable: tuple[str, ...] = ()
        self._ended: frozenset[str] = frozenset()
        self._version, self._read_at = -1, -math.inf
        self._reading = asyncio.Lock()  # an older answer must not come after a newer one
        self._away = False

    @property
    def principals(self) -> Mapping[str, Principal]:
        """The living keys' owners, by the key's id."""
        return {key_id: known.principal for key_id, known in self._known.items()}

    def authenticate(self, key: str | None) -> KeyStatus | None:
        """The key's status, or None when it is no living key. Constant time for what is secret in it."""
        known = self._find(key)
        return known.status if known is not None else None

    def living(self, key_id: str) -> KeyStatus | None:
        """The status of the key of that id, for whoever has shown it before; None when it lives no more."""
        known = self._known.get(key_id)
        return known.status if known is not None and not self._has_expired(known) else None

    def principal(self, key: str | None) -> Principal | None:
        """Who shows this key, as the OpenAI door asks."""
        known = self._find(key)
        return known.principal if known is not None else None

    def has_ended(self, session: str) -> bool:
        """Whether somebody signed out of the session of the web page with this digest."""
        return session in self._ended

    def end(self, session: str) -> None:
        """Lets a session end here at once, before the database tells that it has."""
        self._ended |= {session}

    async def refresh(self) -> None:
        """Reads the keys again, if any has changed. While the database is away, those last read go on."""
        async with self._reading:
            now = self._monotonic()
            known_version = self._version if now - self._read_at < REREAD_SECONDS else None
            try:
                version, found = await asyncio.to_thread(self._read, known_version)
            except (SQLAlchemyError, ValueError) as error:
                if not self._away:
                    log.error("keys_not_refreshed", error=str(error))
                self._away = True
                return
            if self._away:
                log.info("keys_refreshed_again")
            self._away = False
            if found is not None:
                self._version, self._read_at = version, now
                self._take(found.keys)
                self._ended = found.ended

    async def run(self) -> None:
        """Keeps the keys fresh, until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:  # the last guard: after it no revocation would count any more
                log.exception("keys_refreshing_crashed")
            await asyncio.sleep(REFRESH_SECONDS)

    def _find(self, key: str | None) -> _Known | None:
        key_id = key_id_of(key) if key else None
        known = self._known.get(key_id) if key_id else None
        if key is None or known is None or not self._secret.matches(key, known.digest):
            return None
        return None if self._has_expired(known) else known

    def _has_expired(self, known: _Known) -> bool:
        expires_at = known.principal.expires_at
        return expires_at != math.inf and expires_at <= self._clock().timestamp()

    def _take(self, found: LivingKeys) -> None:
        old = self._known
        self._known = {}
        for key_id, (status, digest) in found.known.items():
            before = old.get(key_id)
            unchanged = before is not None and before.status == status and before.digest == digest
            self._known[key_id] = before if before is not None and unchanged else _known(status, digest)
        if found.unreadable and found.unreadable != self._unreadable:
            log.error("keys_unreadable", key_ids=found.unreadable)
        self._unreadable = found.unreadable

    def _read(self, known_version: int | None) -> tuple[int, _Found | None]:
        """The version, and what there is unless it is that of `known_version`."""
        with self._database.read() as session:
            keys = Keys(session, self._clock())
            version = keys.version()  # before the keys: what changes in between is read again
            if version == known_version:
                return version, None
            return version, _Found(keys.living(), EndedSessions(session, self._clock()).all())


def _known(status: KeyStatus, digest: str) -> _Known:
    principal = Principal(
        key_id=status.id,
        name=status.name,
        role=status.role,
        models=frozenset(status.models),
        limits=status.limits if status.limits != _NO_LIMITS else None,
        expires_at=status.expires_at.timestamp() if status.expires_at is not None else math.inf,
    )
    return _Known(status, principal, digest)
