"""The claiming transaction: never twice the same bytes, the same answer to the same question, and who is woken."""

import multiprocessing

from stoker.domain.claims import Claim
from stoker.domain.deployments import InstanceState
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.statuses import DeploymentProjection
from stoker.domain.workers import Device, DeviceKind, Worker
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.projections import RowProjections
from stoker.storage.workers import UNREACHABLE_AFTER, Workers
from tests.builders import make_device, make_files, make_profile, make_request, make_spec, make_worker
from tests.stoker.storage.conftest import Clock


def size_of_one() -> int:
    """Bytes that a request of `make_request()` claims on a CPU."""
    needed = estimate(make_profile(), make_spec().options)
    assert isinstance(needed, MemoryEstimate)
    return needed.host.total


def host(name: str = "w1", *, room_for: float = 1) -> Worker:
    """A host whose CPU holds so many of `make_request()`."""
    cpu = Device(id="cpu", kind=DeviceKind.CPU, total=int(size_of_one() * room_for))
    return make_worker(name=name, devices=(cpu,))


def join(database: Database, clock: Clock, worker: Worker) -> None:
    with database.write() as session:
        Workers(session, clock()).join(worker, credential_hash="hash", engine_secret="secret")


def claims(database: Database, clock: Clock) -> list[Claim]:
    with database.read() as session:
        return [claim for status in Workers(session, clock()).all() for claim in status.claims]


def test_a_place_is_claimed_and_given_back(database: Database, clock: Clock) -> None:
    join(database, clock, host())
    ledger = ClaimLedger(database, clock)
    placement = ledger.place(make_request(instance_id="a"))
    assert isinstance(placement, Placement)
    assert [(c.instance_id, c.worker, c.device, c.size) for c in claims(database, clock)] == [
        ("a", "w1", "cpu", size_of_one())
    ]
    assert ledger.release("a", 1) == ()
    assert claims(database, clock) == []


def test_the_same_question_gets_the_same_answer(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=5))
    ledger = ClaimLedger(database, clock)
    first = ledger.place(make_request(instance_id="a"))
    assert ledger.place(make_request(instance_id="a")) == first
    assert len(claims(database, clock)) == 1


def test_the_next_incarnation_claims_anew(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=1))
    ledger = ClaimLedger(database, clock)
    assert isinstance(ledger.place(make_request(instance_id="a", incarnation=1)), Placement)
    assert isinstance(ledger.place(make_request(instance_id="a", incarnation=2)), Unplaceable), "1 still holds the room"
    ledger.release("a", 1)
    assert isinstance(ledger.place(make_request(instance_id="a", incarnation=2)), Placement)
    assert [claim.incarnation for claim in claims(database, clock)] == [2]


def test_releasing_one_incarnation_leaves_the_other(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)
    ledger.place(make_request(instance_id="a", incarnation=1))
    ledger.place(make_request(instance_id="a", incarnation=2))
    ledger.release("a", 1)
    assert [claim.incarnation for claim in claims(database, clock)] == [2]
    ledger.release("a")
    assert claims(database, clock) == []


def test_what_does_not_fit_is_pending_with_its_reasons(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=0.5))
    outcome = ClaimLedger(database, clock).place(make_request(instance_id="a"))
    assert isinstance(outcome, Unplaceable)
    with database.read() as session:
        status = Instances(session, clock()).get("a")
    assert status is not None
    assert status.state is InstanceState.PENDING
    assert status.unplaceable == outcome
    assert claims(database, clock) == []


def test_release_wakes_who_fits_by_priority_then_age(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)
    for name in ("a", "b"):
        ledger.place(make_request(instance_id=name))
    for name, priority in (("old", 0), ("young", 0), ("urgent", 5)):
        clock.advance(seconds=1)
        spec = make_spec(name=name, priority=priority)
        assert isinstance(ledger.place(make_request(instance_id=name, spec=spec)), Unplaceable)
    assert ledger.release("a", 1) == ("urgent",)
    assert ledger.release("b", 1) == ("urgent", "old")


def test_a_priority_that_changed_while_waiting_counts(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=1))
    ledger = ClaimLedger(database, clock)
    ledger.place(make_request(instance_id="a"))
    for name in ("old", "young"):
        clock.advance(seconds=1)
        ledger.place(make_request(instance_id=name, spec=make_spec(name=name)))
    raised = DeploymentProjection(
        spec=make_spec(name="young", priority=5), generation=2, profile=make_profile(), files=make_files()
    )
    RowProjections(database, clock).put_deployment(raised)
    assert ledger.release("a", 1) == ("young",)


def test_waiting_again_keeps_the_age(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=1))
    ledger = ClaimLedger(database, clock)
    ledger.place(make_request(instance_id="a"))
    for name in ("old", "young", "old"):
        clock.advance(seconds=1)
        ledger.place(make_request(instance_id=name, spec=make_spec(name=name)))
    assert ledger.release("a", 1) == ("old",)


def test_a_worker_that_joins_wakes_who_fits(database: Database, clock: Clock) -> None:
    ledger = ClaimLedger(database, clock)
    assert isinstance(ledger.place(make_request(instance_id="a")), Unplaceable)
    assert ledger.wakeable() == ()
    join(database, clock, host())
    assert ledger.wakeable() == ("a",)


def test_a_silent_worker_gets_nothing_until_it_reports(database: Database, clock: Clock) -> None:
    join(database, clock, host())
    ledger = ClaimLedger(database, clock)
    clock.advance(seconds=UNREACHABLE_AFTER.total_seconds() + 1)
    outcome = ledger.place(make_request(instance_id="a"))
    assert isinstance(outcome, Unplaceable)
    assert [rejection.rule for rejection in outcome.rejections] == ["worker_unreachable"]
    with database.write() as session:
        Workers(session, clock()).report(host())
    assert isinstance(ledger.place(make_request(instance_id="a")), Placement)


def test_what_others_really_use_is_not_claimed(database: Database, clock: Clock) -> None:
    busy = make_device(id="cpu", kind=DeviceKind.CPU, total=2 * size_of_one(), used=int(1.5 * size_of_one()), reserve=0)
    join(database, clock, make_worker(name="w1", devices=(busy,)))
    assert isinstance(ClaimLedger(database, clock).place(make_request(instance_id="a")), Unplaceable)


def race(url: str, names: list[str], request: PlacementRequest) -> int:
    """One process of a race: how many places it was given."""
    database = Database(url)
    ledger = ClaimLedger(database, Clock())
    outcomes = [ledger.place(request.model_copy(update={"instance_id": name})) for name in names]
    database.close()
    return sum(isinstance(outcome, Placement) for outcome in outcomes)


def test_two_processes_racing_for_the_last_bytes(database: Database, database_url: str, clock: Clock) -> None:
    join(database, clock, host(room_for=15.5))
    entries = [[f"{side}{number}" for number in range(20)] for side in ("left", "right")]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        won = pool.starmap(race, [(database_url, names, make_request()) for names in entries])
    assert sum(won) == 15
    held = claims(database, clock)
    assert len({claim.instance_id for claim in held}) == len(held) == 15
    assert sum(claim.size for claim in held) <= 15.5 * size_of_one()
