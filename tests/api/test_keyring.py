"""Keys in memory: what counts, from when, and while the database is away."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import structlog
from sqlalchemy import text

from api.keyring import KeyRing
from api.openai.auth import Principal
from stoker.domain.keys import Role
from stoker.secrets import ServerSecret
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.api.serving import SECRET, add_key, away

pytestmark = pytest.mark.anyio


def clock() -> datetime:
    """Some moment."""
    return datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ring(database: Database) -> KeyRing:
    """Nothing read yet."""
    return KeyRing(database, SECRET, clock)


async def test_a_key_counts_once_it_was_read_and_until_it_is_revoked(ring: KeyRing, database: Database) -> None:
    key_id, key = add_key(database, Role.ADMIN, "mine")
    assert ring.authenticate(key) is None
    await ring.refresh()
    status = ring.authenticate(key)
    assert status is not None
    assert (status.id, status.name, status.role) == (key_id, "mine", Role.ADMIN)
    assert ring.principal(key) == Principal(key_id=key_id)
    with database.write() as session:
        Keys(session, clock()).revoke(key_id)
    assert ring.authenticate(key) is not None, "until the next look"
    await ring.refresh()
    assert ring.authenticate(key) is None
    assert ring.principal(key) is None


@pytest.mark.parametrize("key", [None, "", "sk-stoker-", "sk-stoker-aaaaaaaaaaaa-", "something else", "sk-stoker-é-é"])
async def test_what_is_no_key(ring: KeyRing, key: str | None) -> None:
    await ring.refresh()
    assert ring.authenticate(key) is None


async def test_one_byte_more_or_less_or_another_server_secret(ring: KeyRing, database: Database) -> None:
    _, key = add_key(database, Role.ADMIN, "mine")
    await ring.refresh()
    assert ring.authenticate(key + "A") is None
    assert ring.authenticate(key[:-1]) is None
    other = KeyRing(database, ServerSecret("another secret of at least 32 characters"), clock)
    await other.refresh()
    assert other.authenticate(key) is None


async def test_known_keys_go_on_while_the_database_is_away(ring: KeyRing, database: Database) -> None:
    _, key = add_key(database, Role.INFERENCE, "app")
    await ring.refresh()
    with away(database), structlog.testing.capture_logs() as logged:
        await ring.refresh()
        assert ring.authenticate(key) is not None
    assert [entry["event"] for entry in logged] == ["keys_not_refreshed"]
    assert key not in str(logged)


async def test_a_row_that_cannot_be_read_does_not_end_the_refreshing(ring: KeyRing, database: Database) -> None:
    _, key = add_key(database, Role.INFERENCE, "app")
    bad_id, _ = add_key(database, Role.INFERENCE, "bad")
    with database.write() as session:
        session.execute(text("UPDATE api_key SET role = 'of another version' WHERE id = :id"), {"id": bad_id})
    await ring.refresh()
    assert ring.authenticate(key) is None, "nothing was known before"
    running = asyncio.create_task(ring.run())
    try:
        with database.write() as session:
            session.execute(text("DELETE FROM api_key WHERE id = :id"), {"id": bad_id})
        async with asyncio.timeout(10):
            while ring.authenticate(key) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
