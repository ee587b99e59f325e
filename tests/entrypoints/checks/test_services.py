"""What `stoker doctor` sees of the database and of Temporal. Against a real Temporal: tests/e2e."""

import sqlite3
from pathlib import Path

import pytest

from entrypoints.checks.findings import Finding, Verdict
from entrypoints.checks.services import check_database, check_temporal
from entrypoints.clock import utc_now
from stoker.domain.keys import Role
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from stoker.storage.migrate import migrate, revisions
from tests.e2e.system import free_ports


def database_finding(folder: Path, url: str = "", *, running: bool = False) -> Finding:
    settings = Settings(data_dir=folder, database={"url": url})  # type: ignore[arg-type]
    (finding,) = check_database(settings, running=running)
    return finding


def test_a_database_that_the_first_start_will_make(tmp_path: Path) -> None:
    assert database_finding(tmp_path).verdict is Verdict.OK
    assert not (tmp_path / "stoker.db").exists()


def test_a_database_that_is_not_the_running_servers(tmp_path: Path) -> None:
    other = database_finding(tmp_path, running=True)
    assert (other.verdict, "the API that answers has another" in other.found) == (Verdict.WARNING, True)
    assert "/etc/stoker/server.env" in other.advice
    assert not (tmp_path / "stoker.db").exists()

    database = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(database)  # by somebody who had the same settings
    unused = database_finding(tmp_path, running=True)
    assert (unused.verdict, "was never served from" in unused.found) == (Verdict.WARNING, True)
    assert database_finding(tmp_path).verdict is Verdict.OK
    with database.write() as session:
        Keys(session, utc_now()).add("id", "ada", Role.ADMIN, "digest")
    assert database_finding(tmp_path, running=True).verdict is Verdict.OK
    database.close()


def test_tables_of_this_version_or_another(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    assert revisions(database)[0] == ""
    assert database_finding(tmp_path).advice == "run `stoker migrate`; `stoker up` does so by itself"
    migrate(database, "0002")
    older = database_finding(tmp_path)
    assert (older.verdict, "(0002)" in older.found) == (Verdict.WRONG, True)
    migrate(database)
    assert database_finding(tmp_path).verdict is Verdict.OK
    with sqlite3.connect(tmp_path / "stoker.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert database_finding(tmp_path).verdict is Verdict.WARNING
    database.close()


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "stoker.db").write_text("this is no database, and long enough to be looked at " * 100)
    assert "file is not a database" in database_finding(tmp_path).found
    (port,) = free_ports(1)
    away = database_finding(tmp_path, f"postgresql://stoker:hunter2@127.0.0.1:{port}/stoker")
    assert away.verdict is Verdict.WRONG
    assert away.found.startswith("PostgreSQL, stoker on 127.0.0.1: ")
    assert "hunter2" not in f"{away}"
    assert database_finding(tmp_path, "nonsense").found == "STOKER_DATABASE__URL is no database URL"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("named", "running", "verdict"), [("", False, "ok"), ("", True, "warning"), ("yes", False, "wrong")]
)
async def test_no_temporal(named: str, running: bool, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.checks.services.TEMPORAL_WITHIN_SECONDS", 0.0)
    (port,) = free_ports(1)
    temporal = {"address": f"127.0.0.1:{port}"} if named else {"port": port}
    (finding,) = await check_temporal(Settings(temporal=temporal), running=running)  # type: ignore[arg-type]
    assert finding.verdict == verdict
