"""The judge of a fleet's claims finds what is wrong, and nothing where all is right."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.stage.fleet_rows import FleetRows
from stoker.domain.deployments import InstanceState
from stoker.domain.units import GIB
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.tables import ClaimRow, InstanceRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GPU_BYTES = 24 * GIB


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Two instances that run, each on a GPU of its own: a-1 on host-1, and b-1 as its second incarnation on host-2."""
    database = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(database)
    with database.write() as session:
        session.add_all([instance("a-1", 1, "host-1"), instance("b-1", 2, "host-2")])
        session.add_all([claim("a-1", 1, "host-1", "gpu0"), claim("b-1", 2, "host-2", "gpu0")])
    yield database
    database.close()


@pytest.fixture
def rows(database: Database) -> FleetRows:
    """What is read from it."""
    return FleetRows(database, GPU_BYTES)


def instance(name: str, incarnation: int, worker: str, state: InstanceState = InstanceState.RUNNING) -> InstanceRow:
    """A row of the deployment that the name begins with."""
    return InstanceRow(
        id=name,
        deployment=name.split("-")[0],
        generation=1,
        incarnation=incarnation,
        state=state,
        worker=worker,
        created_at=NOW,
        updated_at=NOW,
        state_since=NOW,
    )


def claim(
    name: str, incarnation: int, worker: str, device: str, *, size: int = 14 * GIB, ending: bool = False
) -> ClaimRow:
    """Bytes of a device."""
    return ClaimRow(instance_id=name, incarnation=incarnation, worker=worker, device=device, size=size, ending=ending)


RIGHT = {"host-1": {("a-1", 1)}, "host-2": {("b-1", 2)}}


def test_nothing_is_wrong_where_all_is_right(rows: FleetRows) -> None:
    assert rows.running(but_on=()) == 2
    assert rows.running(but_on=("host-2", "host-3")) == 1
    assert rows.wrong() == []
    assert rows.unlike(RIGHT) == []


@pytest.mark.parametrize(
    ("added", "wrong"),
    [
        (claim("c-1", 1, "host-1", "gpu0", ending=True), "('host-1', 'gpu0') has 30064771072 bytes booked"),
        (claim("a-1", 2, "host-2", "gpu1"), "('a-1', 2, 'host-2') holds but does not run"),
        (claim("c-1", 1, "host-2", "gpu1"), "('c-1', 1, 'host-2') holds but does not run"),
        (instance("c-1", 1, "host-1"), "('c-1', 1, 'host-1') holds nothing"),
    ],
    ids=["a GPU twice", "an older incarnation", "nobody", "without a claim"],
)
def test_a_wrong_claim_is_found(database: Database, rows: FleetRows, added: object, wrong: str) -> None:
    with database.write() as session:
        session.add(added)
    assert rows.wrong() == [wrong]


def test_what_ends_on_a_lost_host_is_right(database: Database, rows: FleetRows) -> None:
    with database.write() as session:
        session.add_all([claim("b-1", 1, "host-1", "gpu1", ending=True)])
    assert rows.wrong() == []


@pytest.mark.parametrize(
    ("engines", "problems"),
    [
        ({"host-1": {("a-1", 1)}, "host-2": set[tuple[str, int]]()}, ["('b-1', 2) is not on host-2"]),
        ({**RIGHT, "host-3": {("b-1", 1)}}, ["('b-1', 1) is left over on host-3"]),
        (
            {"host-1": {("b-1", 2)}, "host-2": {("a-1", 1)}},
            ["('a-1', 1) is not on host-1", "('b-1', 2) is not on host-2"],
        ),
    ],
    ids=["gone", "left over", "elsewhere"],
)
def test_what_runs_unlike_the_rows_is_found(
    rows: FleetRows, engines: dict[str, set[tuple[str, int]]], problems: list[str]
) -> None:
    assert rows.unlike(engines) == problems


def test_an_engine_on_two_hosts_is_found(rows: FleetRows) -> None:
    assert "('b-1', 2) is on 2 hosts" in rows.unlike({**RIGHT, "host-3": {("b-1", 2)}})
