"""What monitoring reads of the rows: reports, claims, who waits."""

from stoker.domain.placement.types import Placement
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.figures import Figures, read_figures
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers
from tests.builders import make_request, make_spec, make_worker
from tests.fakes.api import make_unplaceable
from tests.stoker.storage.conftest import Clock


def figures(database: Database) -> Figures:
    """As they are now."""
    with database.read() as session:
        return read_figures(session)


def test_nothing_is_known_of_an_empty_cluster(database: Database) -> None:
    assert figures(database) == Figures({}, {}, {}, {})


def test_when_each_worker_last_reported(database: Database, clock: Clock) -> None:
    began = clock()
    with database.write() as session:
        for name in ("w1", "w2"):
            Workers(session, began).join(make_worker(name=name), credential_hash="", engine_secret="")
    clock.advance(seconds=5)
    with database.write() as session:
        assert Workers(session, clock()).report(make_worker(name="w2"))
    assert figures(database).reported_at == {"w1": began, "w2": clock()}


def test_claims_that_are_held_and_those_that_end(database: Database, clock: Clock) -> None:
    with database.write() as session:
        Workers(session, clock()).join(make_worker(name="w1"), credential_hash="", engine_secret="")
    ledger = ClaimLedger(database, clock)
    placed = [ledger.place(make_request(instance_id=f"llama-{number}")) for number in range(2)]
    each = {len(one.shares) for one in placed if isinstance(one, Placement)}
    assert each == {2}, "a GPU, and the RAM of its host"
    assert (figures(database).held, figures(database).ending) == ({"w1": 4}, {})
    ledger.release("llama-1", unconfirmed=["w1"])
    assert (figures(database).held, figures(database).ending) == ({"w1": 2}, {"w1": 2})


def test_the_oldest_of_each_deployment_that_waits(database: Database, clock: Clock) -> None:
    began = clock()
    for name, spec in (("big-0", "big"), ("big-1", "big"), ("huge-0", "huge")):
        with database.write() as session:
            asked = make_request(instance_id=name, spec=make_spec(name=spec))
            Instances(session, clock()).placed(asked, make_unplaceable())
        clock.advance(seconds=10)
    waiting = figures(database).pending_since
    assert {name: (since - began).total_seconds() for name, since in waiting.items()} == {"big": 0, "huge": 20}
