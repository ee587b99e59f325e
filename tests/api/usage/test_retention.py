"""Single requests go by themselves, and whatever goes wrong, they go later."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from api.usage import retention
from api.usage.retention import forget_for_ever
from stoker.storage.engine import Database
from stoker.storage.usage import Stretch, usage_requests
from stoker.storage.usage_writing import Batch, write_batches
from tests.api.usage.records import record

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)


class Troubled:
    """A database that fails in two ways before it works."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failures = [OperationalError("a statement", None, ConnectionError("away")), RuntimeError("a bug")]

    def write(self) -> Any:
        if self._failures:
            raise self._failures.pop(0)
        return self._database.write()


async def test_what_is_older_goes(
    database: Database, monkeypatch: pytest.MonkeyPatch, logs: list[dict[str, object]]
) -> None:
    monkeypatch.setattr(retention, "EVERY_SECONDS", 0.01)
    ages = [timedelta(days=days) for days in (0, 1, 2, 3, 40)]
    records = [record(number)._replace(ended_at=(NOW - age).timestamp()) for number, age in enumerate(ages)]
    with database.write() as session:
        write_batches(session, "r", [Batch(1, records)], NOW)

    def left() -> list[int]:
        with database.read() as session:
            found = usage_requests(session, Stretch(None, None), limit=10)
            return [one.record.input_tokens for one in found]

    running = asyncio.create_task(forget_for_ever(Troubled(database), lambda: NOW, 2))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while len(logs) < 3:  # noqa: ASYNC110 - it tells of it after it is done
            await asyncio.sleep(0.01)
    assert left() == [0, 1, 2]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    events = [line["event"] for line in logs]
    assert events[:3] == ["usage_not_forgotten", "usage_forgetting_crashed", "usage_forgotten"]
