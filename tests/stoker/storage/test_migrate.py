"""Migrations make exactly the tables that the code expects."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import SQLModel, select

import stoker.storage
from stoker.certificates import new_key_and_request
from stoker.domain.placement.types import Placement
from stoker.domain.statuses import DeploymentProjection
from stoker.domain.workers import WorkerState
from stoker.secrets import ServerSecret
from stoker.storage.authority import cluster_authority
from stoker.storage.certificates import Certificates
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.join_tokens import JoinTokens
from stoker.storage.migrate import migrate
from stoker.storage.tables import ClaimRow, WorkerLinkRow, WorkerRow
from stoker.storage.workers import Workers
from tests.builders import make_files, make_profile, make_request, make_spec, make_worker


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


def test_what_is_known_of_the_fleet_is_marked_as_changed_once(database_url: str) -> None:
    database = Database(database_url)
    migrate(database, "0002")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    projection = DeploymentProjection(
        spec=make_spec(name="smol", priority=7), generation=1, profile=make_profile(), files=make_files()
    )
    report, request = make_worker(name="w1"), make_request(instance_id="smol-1", spec=projection.spec)
    rows: dict[str, dict[str, object]] = {
        "worker": {"name": "w1", "report": report.model_dump_json(), "cordoned": True, "credential_hash": "hash"}
        | {"engine_secret": "secret", "joined_at": now, "seen_at": now},
        "deployment": {"name": "smol", "projection": projection.model_dump_json(), "generation": 1}
        | {"created_at": now, "updated_at": now},
        "claim": {"instance_id": "gone-1", "incarnation": 1, "worker": "w0", "device": "gpu0", "size": 5},
        "instance": {"id": "smol-1", "deployment": "smol", "generation": 1, "incarnation": 1, "state": "pending"}
        | {"message": "", "port": 0, "pid": 0, "load_seconds": 0.0, "worker": "", "request": request.model_dump_json()}
        | {"pending_since": now, "created_at": now, "updated_at": now, "state_since": now},
    }
    with database.engine.execution_options(stoker_writes=True).begin() as connection:
        for table, values in rows.items():
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})"), values)  # noqa: S608 - literals
    migrate(database)
    ledger = ClaimLedger(database, lambda: now)
    assert {name: host.worker.state for name, host in ledger.fleet().hosts.items()} == {"w1": WorkerState.CORDONED}
    assert [(one.request, one.priority) for one in ledger.waiting()] == [(request, 7)]
    assert ledger.uncordon("w1") == ("smol-1",)
    assert isinstance(ledger.place(request), Placement)
    with database.write() as session:
        Workers(session, now).join(make_worker(name="w0"), credential_hash="", engine_secret="")
    assert ledger.fleet().hosts["w0"].claimed == {"gpu0": 5}
    database.close()


def test_a_cluster_without_a_mesh_gets_one(database_url: str) -> None:
    database = Database(database_url)
    migrate(database, "0003")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    worker = {"name": "w1", "report": make_worker(name="w1").model_dump_json(), "cordoned": False, "draining": False}
    worker |= {"credential_hash": "hash", "engine_secret": "secret", "joined_at": now, "seen_at": now}
    claim = {"instance_id": "i-1", "incarnation": 1, "worker": "w1", "device": "gpu0", "size": 5}
    with database.engine.execution_options(stoker_writes=True).begin() as connection:
        for table, values in (("worker", worker), ("claim", claim)):
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})"), values)  # noqa: S608 - literals
    migrate(database)
    with database.read() as session:
        row, held = session.exec(select(WorkerRow)).one(), session.exec(select(ClaimRow)).one()
    assert (row.files, row.credential_hash, row.joined_at) == ([], "hash", now)
    assert (held.ending, held.size) == (False, 5)
    secret = ServerSecret("a secret that only the tests know")
    made = cluster_authority(database, secret, lambda: now)
    assert cluster_authority(database, secret, lambda: now) == made
    with database.write() as session:
        Certificates(session, now).add("worker/w1", made.issue(new_key_and_request("worker/w1")[1], "worker/w1", now))
        JoinTokens(session, now).add("t1", "digest", labels={"zone": "a"}, valid=timedelta(hours=1))
        session.add(WorkerLinkRow(worker="w1", peer="w2", bytes_per_second=10**12, checked_at=now))
    with database.read() as session:
        assert Certificates(session, now).living("worker/w1") == 1
        assert [token.labels for token in JoinTokens(session, now).all()] == [{"zone": "a"}]
        assert session.exec(select(WorkerLinkRow)).one().bytes_per_second == 10**12
    database.close()


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_the_last_migration_can_be_taken_back(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(stoker.storage.__file__).parent / "migrations"))
    with database.engine.execution_options(stoker_writes=True).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    migrate(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    migrate(database)
    with database.engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    assert revision == ScriptDirectory(str(Path(stoker.storage.__file__).parent / "migrations")).get_current_head()
