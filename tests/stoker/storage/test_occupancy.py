"""What is on which worker, by the rows."""

from stoker.domain.placement.types import Placement
from stoker.domain.workers import WorkerState
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.occupancy import RowOccupancy
from stoker.storage.workers import Workers
from tests.builders import make_request, make_worker
from tests.stoker.storage.conftest import Clock


def test_who_is_there_and_who_is_elsewhere(database: Database, clock: Clock) -> None:
    ledger, occupancy = ClaimLedger(database, clock), RowOccupancy(database, clock)
    for name in ("w1", "w2"):
        with database.write() as session:
            Workers(session, clock()).join(make_worker(name=name), credential_hash="", engine_secret="secret")
        placed = ledger.place(make_request(instance_id=f"llama-on-{name}"))
        assert isinstance(placed, Placement)
        assert placed.worker == name
    assert [one.instance_id for one in occupancy.on_worker("w1")] == ["llama-on-w1"]
    assert [one.instance_id for one in occupancy.of_deployment("llama")] == ["llama-on-w1", "llama-on-w2"]
    assert (occupancy.on_worker("w3"), occupancy.of_deployment("other")) == ((), ())
    ledger.release("llama-on-w1")
    assert occupancy.on_worker("w1") == ()


def test_a_workers_state(database: Database, clock: Clock) -> None:
    ledger, occupancy = ClaimLedger(database, clock), RowOccupancy(database, clock)
    assert occupancy.worker_state("w1") is None
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="secret")
    assert occupancy.worker_state("w1") is WorkerState.READY
    assert ledger.drain("w1")
    assert occupancy.worker_state("w1") is WorkerState.DRAINING
    assert ledger.uncordon("w1") == ()
    assert occupancy.worker_state("w1") is WorkerState.READY


def test_one_that_is_emptied_no_more_stays_cordoned(database: Database, clock: Clock) -> None:
    ledger, occupancy = ClaimLedger(database, clock), RowOccupancy(database, clock)
    for name in ("w1", "w2"):
        with database.write() as session:
            Workers(session, clock()).join(make_worker(name=name), credential_hash="", engine_secret="secret")
    assert ledger.drain("w1")
    for name in ("w1", "w2", "w3"):  # one is not drained, one is not there
        occupancy.stop_draining(name)
    assert occupancy.worker_state("w1") is WorkerState.CORDONED
    assert occupancy.worker_state("w2") is WorkerState.READY
    assert {name: host.worker.state for name, host in ledger.fleet().hosts.items()} == {
        "w1": WorkerState.CORDONED,
        "w2": WorkerState.READY,
    }
