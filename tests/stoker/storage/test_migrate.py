"""Migrations make exactly the tables that the code expects."""

from datetime import UTC, datetime
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import stoker.storage
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.migrate import migrate
from stoker.storage.tables import SQLModel


def test_migrated_tables_are_those_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_rows_of_the_version_before_are_kept(database_url: str) -> None:
    database = Database(database_url)
    migrate(database, "0001")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    values = {"id": "smol-aaaaa", "deployment": "smol", "generation": 1, "incarnation": 1, "state": "running"}
    values |= {"message": "", "port": 1, "pid": 2, "load_seconds": 0.5, "worker": "w1"}
    values |= {"created_at": now, "updated_at": now, "state_since": now}
    columns = ", ".join(values)
    with database.engine.execution_options(stoker_writes=True).begin() as connection:
        connection.execute(
            text(f"INSERT INTO instance ({columns}) VALUES (:{', :'.join(values)})"),  # noqa: S608 - literals
            values,
        )
    migrate(database)
    with database.read() as session:
        status = Instances(session, now).get("smol-aaaaa")
    assert status is not None
    assert (status.pid, status.memory) == (2, None)
    database.close()


def test_migrating_twice_changes_nothing(database: Database) -> None:
    migrate(database)
    with database.engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    assert revision == ScriptDirectory(str(Path(stoker.storage.__file__).parent / "migrations")).get_current_head()
