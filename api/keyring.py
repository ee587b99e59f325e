"""Who is asking: API keys, checked from memory, so that the database may be away."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.openai.auth import Principal
from stoker.domain.keys import KeyStatus
from stoker.secrets import ServerSecret, key_id_of
from stoker.storage.engine import Database
from stoker.storage.keys import Keys

log = structlog.get_logger()

REFRESH_SECONDS = 1.0
"""A key that was made or revoked elsewhere counts within this time."""


class KeyRing:
    """The living keys, as last read."""

    def __init__(self, database: Database, secret: ServerSecret, clock: Callable[[], datetime]) -> None:
        self._database, self._secret, self._clock = database, secret, clock
        self._digests: dict[str, tuple[KeyStatus, str]] = {}

    def authenticate(self, key: str | None) -> KeyStatus | None:
        """The key's status, or None when it is no living key. Constant time for what is secret in it."""
        key_id = key_id_of(key) if key else None
        found = self._digests.get(key_id) if key_id else None
        if key is None or found is None or not self._secret.matches(key, found[1]):
            return None
        return found[0]

    def principal(self, key: str | None) -> Principal | None:
        """The same, as the OpenAI door asks."""
        status = self.authenticate(key)
        return Principal(key_id=status.id) if status else None

    async def refresh(self) -> None:
        """Reads the keys again. While the database is away, those last read go on."""
        try:
            self._digests = await asyncio.to_thread(self._read)
        except (SQLAlchemyError, ValueError) as error:  # away, or a row that this version cannot read
            log.error("keys_not_refreshed", error=str(error))

    async def run(self) -> None:
        """Keeps the keys fresh, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    def _read(self) -> dict[str, tuple[KeyStatus, str]]:
        with self._database.read() as session:
            return Keys(session, self._clock()).digests()
