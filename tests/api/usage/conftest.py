"""Databases for recorders, and one that is stopped and comes back."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.faults.databases import Postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this module's own. In a folder that other tests' runs leave alone."""
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder) / "postgresql")
        yield server
        server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """One with this version's tables, empty."""
    if request.param == "sqlite":
        opened = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    else:
        opened = Database(request.getfixturevalue("postgres").url)
        _empty(opened)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    """What was logged."""
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def _empty(database: Database) -> None:
    from sqlalchemy import text

    with database.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
