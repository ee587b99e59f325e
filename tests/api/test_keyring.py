"""Keys in memory: what counts, from when, and while the database is away."""

import asyncio
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from sqlalchemy import text

from api.keyring import REFRESH_SECONDS, REREAD_SECONDS, KeyRing
from api.openai.auth import Principal
from stoker.domain.keys import KeyLimits, Role
from stoker.secrets import ServerSecret, new_key
from stoker.storage.engine import Database
from stoker.storage.keys import Keys, LivingKeys
from tests.api.serving import SECRET, add_key, away

pytestmark = pytest.mark.anyio


def clock() -> datetime:
    """Some moment."""
    return datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def now() -> list[datetime]:
    """The moment, which a test may move."""
    return [clock()]


@pytest.fixture
def up() -> list[float]:
    """Seconds that the process has run."""
    return [100.0]


@pytest.fixture
def ring(database: Database, now: list[datetime], up: list[float]) -> KeyRing:
    """Nothing read yet."""
    return KeyRing(database, SECRET, lambda: now[0], monotonic=lambda: up[0])


def by_hand(database: Database, statement: str, key_id: str) -> None:
    """What somebody does to the table behind the code's back."""
    with database.write() as session:
        session.execute(text(statement), {"id": key_id})


async def test_a_key_counts_once_it_was_read_and_until_it_is_revoked(ring: KeyRing, database: Database) -> None:
    key_id, key = add_key(database, Role.ADMIN, "mine")
    assert ring.authenticate(key) is None
    await ring.refresh()
    status = ring.authenticate(key)
    assert status is not None
    assert (status.id, status.name, status.role) == (key_id, "mine", Role.ADMIN)
    assert ring.principal(key) == Principal(key_id=key_id, name="mine", role=Role.ADMIN)
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
    _, key = add_key(database, Role.USER, "app")
    await ring.refresh()
    with away(database), structlog.testing.capture_logs() as logged:
        await ring.refresh()
        assert ring.authenticate(key) is not None
    assert [entry["event"] for entry in logged] == ["keys_not_refreshed"]
    assert key not in str(logged)


async def test_a_row_that_cannot_be_read_opens_nothing_and_stops_nobody_else(ring: KeyRing, database: Database) -> None:
    _, key = add_key(database, Role.USER, "app")
    bad_id, bad_key = add_key(database, Role.USER, "bad")
    by_hand(database, "UPDATE api_key SET role = 'of another version' WHERE id = :id", bad_id)
    with structlog.testing.capture_logs() as logged:
        await ring.refresh()
        assert ring.authenticate(key) is not None
        assert ring.authenticate(bad_key) is None
        _, another = add_key(database, Role.USER, "another")
        await ring.refresh()
        assert ring.authenticate(another) is not None
    assert [entry["key_ids"] for entry in logged] == [(bad_id,)], "said once"
    by_hand(database, "DELETE FROM api_key WHERE id = :id", bad_id)


async def test_what_a_key_may_do_is_its_owners(ring: KeyRing, database: Database, now: list[datetime]) -> None:
    key_id, key = add_key(database, Role.USER, "app")
    await ring.refresh()
    plain = ring.principal(key)
    assert plain == Principal(key_id=key_id, name="app", role=Role.USER)
    assert plain.limits is None
    assert plain.may_ask("anything")
    limits, expires_at = KeyLimits(requests_per_minute=5), now[0] + timedelta(hours=1)
    with database.write() as session:
        keys = Keys(session, now[0])
        status = keys.get(key_id)
        assert status is not None
        changed = status.model_copy(update={"models": ("smol",), "limits": limits, "expires_at": expires_at})
        assert keys.put(changed)
    await ring.refresh()
    principal = ring.principal(key)
    assert principal is not None
    assert (principal.models, principal.limits) == (frozenset({"smol"}), limits)
    assert principal.expires_at == expires_at.timestamp()
    assert (principal.may_ask("smol"), principal.may_ask("other")) == (True, False)


async def test_an_owner_is_made_once_and_again_when_its_key_changes(ring: KeyRing, database: Database) -> None:
    key_id, key = add_key(database, Role.USER, "app")
    await ring.refresh()
    first = ring.principal(key)
    add_key(database, Role.USER, "another")
    await ring.refresh()
    assert ring.principal(key) is first
    with database.write() as session:
        keys = Keys(session, clock())
        status = keys.get(key_id)
        assert status is not None
        keys.put(status.model_copy(update={"name": "renamed"}))
    await ring.refresh()
    assert ring.principal(key) is not first
    assert ring.principals[key_id].name == "renamed"


async def test_an_expired_key_is_none_also_while_the_database_is_away(
    ring: KeyRing, database: Database, now: list[datetime]
) -> None:
    key_id, key = new_key()
    with database.write() as session:
        expires_at = now[0] + timedelta(seconds=10)
        Keys(session, now[0]).add(key_id, "short", Role.USER, SECRET.digest(key), expires_at=expires_at)
    await ring.refresh()
    with away(database), structlog.testing.capture_logs():
        now[0] += timedelta(seconds=9.999)
        await ring.refresh()
        assert ring.principal(key) is not None
        now[0] += timedelta(seconds=0.001)
        assert ring.principal(key) is None
        assert ring.authenticate(key) is None
    await ring.refresh()
    assert ring.principal(key) is None


async def test_all_keys_are_read_only_when_one_has_changed(
    ring: KeyRing, database: Database, up: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[None] = []
    living = Keys.living

    def noted(keys: Keys) -> LivingKeys:
        read.append(None)
        return living(keys)

    monkeypatch.setattr(Keys, "living", noted)
    key_id, key = add_key(database, Role.USER, "app")
    for _ in range(3):
        await ring.refresh()
    assert len(read) == 1
    add_key(database, Role.USER, "another")
    for _ in range(3):
        await ring.refresh()
    assert len(read) == 2
    by_hand(database, "UPDATE api_key SET revoked_at = created_at WHERE id = :id", key_id)
    await ring.refresh()
    assert ring.principal(key) is not None
    up[0] += REREAD_SECONDS
    await ring.refresh()
    assert ring.principal(key) is None, "what was done by hand counts a little later"


async def test_a_database_that_comes_back_is_said_once(ring: KeyRing, database: Database) -> None:
    with structlog.testing.capture_logs() as logged:
        with away(database):
            for _ in range(3):
                await ring.refresh()
        for _ in range(2):
            await ring.refresh()
    assert [entry["event"] for entry in logged] == ["keys_not_refreshed", "keys_refreshed_again"]


REVOKE = """
import sys
from datetime import UTC, datetime
from stoker.storage.engine import Database
from stoker.storage.keys import Keys, LivingKeys
database = Database(sys.argv[1])
with database.write() as session:
    assert Keys(session, datetime.now(UTC)).revoke(sys.argv[2])
"""


async def test_a_key_that_another_process_revokes_opens_nothing_soon(ring: KeyRing, database: Database) -> None:
    assert REFRESH_SECONDS <= 0.5, "revoked within a second, with time to spare for a busy host"
    key_id, key = add_key(database, Role.USER, "app")
    running = asyncio.create_task(ring.run())
    try:
        async with asyncio.timeout(30):
            while ring.principal(key) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", REVOKE, str(database.engine.url), key_id
            )
            assert await process.wait() == 0
            while ring.principal(key) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_what_nobody_foresaw_does_not_end_the_reading(
    ring: KeyRing, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = add_key(database, Role.USER, "app")
    fails, refresh = [RuntimeError("can't start new thread"), TypeError("of a driver")], ring.refresh

    async def refresh_or_fail() -> None:
        if fails:
            raise fails.pop()
        await refresh()

    monkeypatch.setattr(ring, "refresh", refresh_or_fail)
    monkeypatch.setattr("api.keyring.REFRESH_SECONDS", 0.001)
    running = asyncio.create_task(ring.run())
    try:
        async with asyncio.timeout(10):
            while ring.principal(key) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
