"""What one API process tells of what is asked: only news, and signs of life while something is in work."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from api.demand_report import BEAT_EVERY_SECONDS, DemandReport
from api.openai.queueing import Asked
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.tables import DemandRow, table_of
from tests.api.openai.serving import Routes, model
from tests.api.serving import away

pytestmark = pytest.mark.anyio

_ROWS = table_of(DemandRow).c


class Told:
    """A process that tells, by clocks that the test moves."""

    def __init__(self, database: Database) -> None:
        self.database, self.now = database, 100.0
        self.asked: dict[str, Asked] = {}
        self.routes = Routes(model(name="m", autoscaled=True), model(name="fixed"))
        self.report = DemandReport(
            database,
            self.routes,
            lambda: self.asked,
            lambda: datetime(2026, 11, 21, tzinfo=UTC),
            monotonic=lambda: self.now,
        )

    async def after(self, seconds: float, **asked: tuple[int, int]) -> list[tuple[str, int, int, int]]:
        """The rows once it has told what is asked then: deployment, busy, asked, beat."""
        self.now += seconds
        self.asked = {name: Asked(*counts) for name, counts in asked.items()}
        await self.report.tell()
        return self.rows()

    def rows(self) -> list[tuple[str, int, int, int]]:
        """What is there."""
        query = select(_ROWS.deployment, _ROWS.busy, _ROWS.asked, _ROWS.beat).order_by(_ROWS.deployment)
        with self.database.read() as session:
            return [tuple(row) for row in session.execute(query)]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    """On a database of its own."""
    database = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(database)
    yield Told(database)
    database.close()


async def test_only_what_demand_scales_and_only_what_was_asked(told: Told) -> None:
    assert await told.after(0, m=(0, 0), fixed=(3, 3), unknown=(1, 1)) == []
    assert await told.after(1, m=(2, 2), fixed=(3, 3)) == [("m", 2, 2, 1)]


async def test_news_at_once_and_else_signs_of_life(told: Told) -> None:
    assert await told.after(0, m=(2, 2)) == [("m", 2, 2, 1)]
    assert await told.after(1, m=(2, 2)) == [("m", 2, 2, 1)]
    assert await told.after(1, m=(2, 3)) == [("m", 2, 3, 2)], "one went and one came"
    assert await told.after(BEAT_EVERY_SECONDS - 1, m=(2, 3)) == [("m", 2, 3, 2)]
    assert await told.after(1, m=(2, 3)) == [("m", 2, 3, 3)]
    assert await told.after(1, m=(0, 3)) == [("m", 0, 3, 4)]
    assert await told.after(BEAT_EVERY_SECONDS, m=(0, 3)) == [("m", 0, 3, 4)], "nothing is in work"


async def test_what_could_not_be_told_is_told_later(told: Told) -> None:
    with away(told.database), pytest.raises(OperationalError):
        await told.after(0, m=(1, 1))
    assert told.rows() == []
    assert await told.after(1, m=(1, 1)) == [("m", 1, 1, 1)]


async def test_at_its_end_it_takes_back_what_it_told(told: Told) -> None:
    await told.after(0, m=(1, 1))
    other = Told(told.database)
    await other.after(0, m=(2, 2))
    await told.report.close()
    assert told.rows() == [("m", 2, 2, 1)]
    with away(told.database):
        await other.report.close()  # it will be silent
