"""The ways between workers: kept by pair, and shown with the instances that use them."""

from datetime import timedelta

from stoker.domain.links import WorkerLink
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.links import Links, RowLinks
from tests.builders import make_request
from tests.fakes.api import make_group, make_placement
from tests.stoker.storage.conftest import Clock


def link(clock: Clock, worker: str = "box-1", peer: str = "box-2", **values: object) -> WorkerLink:
    """A good one, checked now."""
    found = {"round_trip_seconds": 0.001, "bytes_per_second": 10**8, "checked_at": clock(), **values}
    return WorkerLink.model_validate({"worker": worker, "peer": peer, **found})


def test_the_last_check_of_a_pair_is_the_one_that_counts(database: Database, clock: Clock) -> None:
    links = RowLinks(database)
    first, back = link(clock), link(clock, "box-2", "box-1")
    links.keep([first, back])
    clock.advance(seconds=5)
    second = link(clock, problem="it is cut", bytes_per_second=0)
    links.keep([second])
    links.keep([first])  # what comes late is not true any more
    with database.read() as session:
        assert Links(session).of({"box-1"}) == {("box-1", "box-2"): second}
        assert Links(session).of({"box-1", "box-2"}) == {("box-1", "box-2"): second, ("box-2", "box-1"): back}
        assert Links(session).of(()) == {}


def test_an_instance_over_several_workers_comes_with_its_ways(database: Database, clock: Clock) -> None:
    with database.write() as session:
        instances = Instances(session, clock())
        asked = make_request(instance_id="llama-g", avoid=("box-9",))
        instances.placed(asked, make_group())
        instances.placed(make_request(instance_id="llama-s"), make_placement())
    used = link(clock)
    RowLinks(database).keep([used, link(clock, peer="box-3"), link(clock, "box-2", "box-1")])
    clock.advance(seconds=1)
    with database.read() as session:
        group, single = Instances(session, clock() + timedelta(0)).all()
        assert Instances(session, clock()).get("llama-g") == group
    assert (group.links, group.avoids) == ((used,), ("box-9",))
    assert (single.links, single.avoids) == ((), ())
