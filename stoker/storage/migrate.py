"""Brings a database to this version's tables."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from stoker.storage.engine import CLAIMING_LOCK, Database

_MIGRATIONS = Path(__file__).parent / "migrations"


def revisions(database: Database) -> tuple[str, str]:
    """The revision of the database's tables ("" for none), and that of this version. Raises DBAPIError."""
    with database.engine.connect() as connection:
        there = MigrationContext.configure(connection).get_current_revision()
    return there or "", ScriptDirectory(str(_MIGRATIONS)).get_current_head() or ""


def migrate(database: Database, revision: str = "head") -> None:
    """Upgrades the tables to `revision`. Two processes may do so at once: one waits for the other."""
    config = _config()
    with database.engine.execution_options(stoker_writes=True).begin() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CLAIMING_LOCK + 1})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def known_revisions() -> frozenset[str]:
    """The revisions of a database that this version can bring to its own tables."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
