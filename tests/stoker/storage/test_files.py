"""Files by the rows: what workers told, who uses them, and who can give them to another."""

from datetime import timedelta

import pytest

from stoker.domain.files import Peer
from stoker.domain.placement.types import Placement
from stoker.domain.reports import StoredFile
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.files import MOST_PEERS, Files, RowFileHolders
from stoker.storage.workers import UNREACHABLE_AFTER, Workers
from tests.builders import make_files, make_request, make_spec, make_worker
from tests.stoker.storage.conftest import Clock

KEY = make_files().key
FILE = StoredFile(model=KEY, path="m.gguf", size=10, done=10, used_at=5.0)


def join(
    database: Database, clock: Clock, name: str, *, mesh_port: int = 8411, holds: tuple[str, ...] = (KEY,)
) -> None:
    worker = make_worker(name=name, address=f"10.0.0.{len(name)}", mesh_port=mesh_port, holds=holds)
    with database.write() as session:
        Workers(session, clock()).join(worker, credential_hash="", engine_secret="s")


def place(ledger: ClaimLedger, instance_id: str, worker: str) -> None:
    request = make_request(instance_id=instance_id, spec=make_spec(devices=((worker, "gpu0"),)))
    assert isinstance(ledger.place(request), Placement)


def peers(database: Database, clock: Clock, besides: str = "w1") -> list[str]:
    return [peer.worker for peer in RowFileHolders(database, clock).peers(KEY, besides=besides)]


def test_what_a_worker_told_is_kept_until_it_tells_otherwise(database: Database, clock: Clock) -> None:
    join(database, clock, "w1")
    join(database, clock, "w2")
    other = StoredFile(model="hf:a/b@c/d.gguf", path="d.gguf", size=7, done=3, own=False)
    for files in ((other,), (FILE, other)):
        with database.write() as session:
            Files(session, clock()).keep("w1", files)
    with database.write() as session:
        Files(session, clock()).keep("nobody", [FILE])
    with database.read() as session:
        found = Files(session, clock()).all()
        assert [model.model for model in found["w1"]] == sorted([KEY, other.model])
        assert (list(found), found["w2"]) == (["w1", "w2"], ())
        assert Files(session, clock()).all(worker="w2") == {"w2": ()}
        (one, _) = sorted(found["w1"], key=lambda model: model.size, reverse=True)
        assert (one.files, one.used_at) == ((FILE,), 5.0)
    with database.write() as session:
        Files(session, clock()).forget("w1", KEY)
    with database.read() as session:
        assert [model.model for model in Files(session, clock()).all()["w1"]] == [other.model]


def test_files_of_a_worker_that_told_none_do_not_change_its_report(database: Database, clock: Clock) -> None:
    join(database, clock, "w1")
    with database.write() as session:
        Files(session, clock()).keep("w1", [FILE])
    with database.write() as session:
        Workers(session, clock()).report(make_worker(name="w1"))
    with database.read() as session:
        assert [model.model for model in Files(session, clock()).all()["w1"]] == [KEY]


def test_who_uses_a_model_is_whoever_holds_claims_with_its_main_server_there(database: Database, clock: Clock) -> None:
    join(database, clock, "w1")
    join(database, clock, "w2")
    ledger = ClaimLedger(database, clock)
    for name in ("b", "a"):
        place(ledger, f"llama-{name}", "w1")
    holders = RowFileHolders(database, clock)
    with database.read() as session:
        assert Files(session, clock()).users() == {("w1", KEY): ("llama-a", "llama-b")}
    assert (holders.placed_on("w1"), holders.placed_on("w2")) == ((KEY,), ())
    ledger.release("llama-a")
    with database.read() as session:
        assert Files(session, clock()).users() == {("w1", KEY): ("llama-b",)}
    ledger.release("llama-b")
    assert holders.placed_on("w1") == ()


def test_peers_are_those_that_hold_it_and_can_be_reached(database: Database, clock: Clock) -> None:
    join(database, clock, "w1")
    join(database, clock, "has-it")
    join(database, clock, "has-no-door", mesh_port=0)
    join(database, clock, "has-another", holds=("hf:a/b@c/d.gguf",))
    found = RowFileHolders(database, clock).peers(KEY, besides="w1")
    assert found == (Peer(worker="has-it", address="10.0.0.6", mesh_port=8411),)
    assert peers(database, clock, besides="has-it") == ["w1"]


def test_a_silent_one_is_no_peer(database: Database, clock: Clock) -> None:
    join(database, clock, "old")
    clock.now += UNREACHABLE_AFTER + timedelta(seconds=1)
    join(database, clock, "young")
    assert peers(database, clock) == ["young"]


@pytest.mark.parametrize("cordoned", [True, False])
def test_the_least_busy_come_first_and_not_all(database: Database, clock: Clock, cordoned: bool) -> None:
    for number in range(MOST_PEERS + 2):
        join(database, clock, f"p{number}")
    with database.write() as session:
        Workers(session, clock()).cordon("p1", cordoned)  # it gets nothing new, and can give all the same
    place(ClaimLedger(database, clock), "llama-a", "p0")
    assert peers(database, clock) == ["p1", "p2", "p3", "p4"]
