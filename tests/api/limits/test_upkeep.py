"""What is done beside the path of requests: the month's tokens as the database knows them, and tidying up."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import OperationalError

from api.keyring import KeyRing
from api.limits.gate import LimitGate
from api.limits.upkeep import IDLE_SECONDS, Upkeep
from api.openai.errors import APIError
from stoker.domain.keys import KeyLimits, Role
from stoker.secrets import new_key
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from stoker.storage.migrate import migrate
from tests.api.serving import SECRET

pytestmark = pytest.mark.anyio

NOVEMBER = datetime(2026, 11, 21, 13, 30, tzinfo=UTC)


class Kept:
    """A gate, its keys and its upkeep, on clocks that the test moves."""

    def __init__(self, path: Path, database: Database) -> None:
        self.path, self._database = path, database
        self.now, self.up = NOVEMBER, 5000.25
        self.tokens: dict[str, int] = {}  # as the database knows them
        self.asked: list[datetime] = []
        self.away = False
        self.gate = LimitGate(path, monotonic=lambda: self.up, clock=lambda: self.now.timestamp())
        self.keyring = KeyRing(database, SECRET, lambda: self.now, monotonic=lambda: self.up)
        self.upkeep = Upkeep(self.gate, self.keyring, self._tokens, lambda: self.now, monotonic=lambda: self.up)

    def _tokens(self, since: datetime) -> dict[str, int]:
        if self.away:
            raise OperationalError("SELECT", {}, Exception("away"))
        self.asked.append(since)
        return self.tokens

    async def key(self, **limits: int) -> tuple[str, str]:
        """A new key with limits."""
        key_id, key = new_key()
        with self._database.write() as session:
            Keys(session, self.now).add(key_id, "app", Role.USER, SECRET.digest(key), limits=KeyLimits(**limits))
        await self.keyring.refresh()
        return key_id, key

    def use(self, key: str, tokens: int) -> None:
        """One request that takes so many. Raises APIError when it is not let in."""
        principal = self.keyring.principal(key)
        assert principal is not None
        self.gate.admit(principal, tokens).settle(tokens)

    def refused(self, key: str, tokens: int) -> str | None:
        """The code with which such a request is refused."""
        with pytest.raises(APIError) as caught:
            self.use(key, tokens)
        return caught.value.code


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """One without any keys."""
    opened = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def kept(tmp_path: Path, database: Database) -> Iterator[Kept]:
    """Nothing counted yet."""
    made = Kept(tmp_path / "counters", database)
    yield made
    made.gate.close()


async def test_where_the_file_is_new_the_month_begins_with_the_databases_sum(kept: Kept) -> None:
    key_id, key = await kept.key(tokens_per_month=100)
    kept.tokens = {key_id: 95, "another": 5}
    await kept.upkeep.refresh()
    assert kept.asked == [datetime(2026, 11, 1, tzinfo=UTC)]
    assert kept.refused(key, 6) == "insufficient_quota"
    kept.use(key, 5)


async def test_what_other_hosts_use_is_taken_in(kept: Kept) -> None:
    key_id, key = await kept.key(tokens_per_month=100)
    kept.use(key, 30)
    await kept.upkeep.refresh()
    kept.use(key, 30)
    kept.tokens = {key_id: 90}  # ours are among them
    await kept.upkeep.refresh()
    assert kept.refused(key, 11) == "insufficient_quota"
    kept.now = datetime(2026, 12, 1, tzinfo=UTC)
    kept.tokens = {}
    await kept.upkeep.refresh()
    assert kept.asked[-1] == kept.now
    kept.use(key, 100)


async def test_keys_without_a_monthly_quota_ask_nothing_of_the_database(kept: Kept) -> None:
    await kept.key(tokens_per_minute=100)
    await kept.upkeep.refresh()
    assert kept.asked == []


async def test_a_database_that_is_away_is_said_once_and_stops_nothing(kept: Kept) -> None:
    key_id, key = await kept.key(tokens_per_month=100)
    kept.away = True
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            await kept.upkeep.refresh()
        kept.use(key, 50)
    assert [entry["event"] for entry in logged] == ["limits_not_kept_up"]
    kept.away, kept.tokens = False, {key_id: 80}
    await kept.upkeep.refresh()
    assert kept.refused(key, 21) == "insufficient_quota"


async def test_a_file_that_was_taken_away_is_made_anew_with_the_months_sums(kept: Kept) -> None:
    key_id, key = await kept.key(tokens_per_month=100)
    kept.tokens = {key_id: 80}
    await kept.upkeep.refresh()
    kept.path.unlink()
    await kept.upkeep.refresh()
    assert kept.path.exists()
    assert kept.refused(key, 21) == "insufficient_quota"
    kept.use(key, 20)


async def test_counts_of_revoked_keys_are_given_up_after_a_while(kept: Kept, database: Database) -> None:
    ids: list[Any] = []
    for _ in range(3):
        key_id, key = await kept.key(requests_per_minute=1)
        kept.use(key, 0)
        ids.append((key_id, key))
    with database.write() as session:
        Keys(session, kept.now).revoke(ids[0][0])
    await kept.keyring.refresh()
    size = kept.path.stat().st_size
    kept.up += IDLE_SECONDS + 1
    kept.now += timedelta(seconds=IDLE_SECONDS + 1)
    await kept.upkeep.refresh()
    for _ in range(61):  # with the two that are left, as many as there is room for
        _, key = await kept.key(requests_per_minute=1)
        kept.use(key, 0)
    assert kept.path.stat().st_size == size
    for _, key in ids[1:]:
        kept.use(key, 0)
        assert kept.refused(key, 0) == "rate_limit_exceeded"


async def test_what_nobody_foresaw_does_not_end_it(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    fails, done = [OSError("Cannot allocate memory"), RuntimeError("can't start new thread")], asyncio.Event()

    async def refresh_or_fail() -> None:
        if fails:
            raise fails.pop()
        done.set()

    monkeypatch.setattr(kept.upkeep, "refresh", refresh_or_fail)
    monkeypatch.setattr("api.limits.upkeep.UPKEEP_SECONDS", 0.001)
    running = asyncio.create_task(kept.upkeep.run())
    async with asyncio.timeout(10):
        await done.wait()
    assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
