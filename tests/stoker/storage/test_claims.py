"""The claiming transaction: never twice the same bytes, the same answer to the same question, and who is woken."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import pytest
from sqlalchemy import event, text

from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.statuses import DeploymentProjection
from stoker.domain.workers import DeviceKind
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.projections import RowProjections
from stoker.storage.workers import UNREACHABLE_AFTER, Workers
from tests.builders import make_device, make_files, make_profile, make_request, make_spec, make_worker
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import claims, host, join, size_of_one

WITHIN_SECONDS = 60.0
ONE_WAITS_FOR_THE_LOCK = text("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


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


def test_threads_of_one_process_racing_for_the_last_bytes(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=5.5))
    ledger = ClaimLedger(database, clock)
    requests = [make_request(instance_id=f"i{number}") for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ledger.place, requests))
    assert sum(isinstance(outcome, Placement) for outcome in outcomes) == 5
    held = claims(database, clock)
    assert len({claim.instance_id for claim in held}) == len(held) == 5
    with ThreadPoolExecutor(8) as pool:
        woken = list(pool.map(ledger.release, sorted(claim.instance_id for claim in held)))
    assert sorted(map(len, woken)) == [1, 2, 3, 4, 5]


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


def test_who_waits_is_told_why_as_of_now(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=0.5))
    ledger = ClaimLedger(database, clock, pending_hold=60)
    assert isinstance(ledger.place(make_request(instance_id="a")), Unplaceable)
    clock.advance(seconds=20)
    join(database, clock, host(name="w2", room_for=0.75))
    told = ledger.explain("a")
    assert told is not None
    assert {one.worker for one in told.rejections} == {"w1", "w2"}
    assert claims(database, clock) == []
    join(database, clock, host(name="w3", room_for=1))
    assert ledger.explain("a") is None, "it would fit: there is nothing to explain"
    assert ledger.explain("unknown") is None


def test_those_that_only_read_wait_for_no_claim(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=1))
    ledger = ClaimLedger(database, clock)
    ledger.place(make_request(instance_id="a"))
    ledger.place(make_request(instance_id="b"))
    with ThreadPoolExecutor() as pool, database.claiming():
        claim = pool.submit(ledger.place, make_request(instance_id="c"))
        assert list(pool.submit(ledger.fleet).result(WITHIN_SECONDS).hosts) == ["w1"]
        assert [one.request.instance_id for one in pool.submit(ledger.waiting).result(WITHIN_SECONDS)] == ["b"]
        assert pool.submit(ledger.explain, "b").result(WITHIN_SECONDS) is not None
        assert not claim.done()
    assert isinstance(claim.result(WITHIN_SECONDS), Unplaceable)


def test_of_many_that_ask_who_fits_two_look_and_the_others_are_answered_at_once(
    database: Database, clock: Clock
) -> None:
    join(database, clock, host(room_for=0.5))
    ledger = ClaimLedger(database, clock)
    ledger.place(make_request(instance_id="a"))
    join(database, clock, host("w2", room_for=1))
    with ThreadPoolExecutor(max_workers=6) as pool:
        with database.claiming():  # nobody can look
            asked = [pool.submit(ledger.wakeable) for _ in range(6)]
            answered = [future.result(WITHIN_SECONDS) for future in islice(as_completed(asked, WITHIN_SECONDS), 4)]
            assert sum(future.done() for future in asked) == 4
        assert answered == [()] * 4
        assert sorted(future.result(WITHIN_SECONDS) for future in asked) == [()] * 4 + [("a",)] * 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite's writers have one order anyway
def test_one_that_is_about_to_wait_is_not_overlooked(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=1))
    ledger, request = ClaimLedger(database, clock), make_request(instance_id="a")
    with ThreadPoolExecutor() as pool:
        with database.claiming() as session:  # it did not see that a worker joined since
            Instances(session, clock()).placed(request, Unplaceable(rejections=(), summary="nothing fits"))
            asked = pool.submit(ledger.wakeable)
            with database.read() as watching:
                while not asked.done() and not watching.execute(ONE_WAITS_FOR_THE_LOCK).scalar_one():
                    watching.rollback()
        assert asked.result(WITHIN_SECONDS) == ("a",)


def test_where_nobody_waits_the_fleet_is_not_looked_at(database: Database, clock: Clock) -> None:
    join(database, clock, host())
    ledger, told = ClaimLedger(database, clock), list[str]()
    event.listen(database.engine, "before_cursor_execute", lambda *call: told.append(call[2]))
    assert ledger.wakeable() == ()
    assert told
    assert not [one for one in told if "worker" in one]


def test_what_does_not_fit_is_told_whether_its_predecessors_are_in_its_way(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)

    def refused(instance_id: str, **fields: object) -> Unplaceable:
        outcome = ledger.place(make_request(instance_id=instance_id, generation=2, spec=make_spec(**fields)))
        assert isinstance(outcome, Unplaceable)
        assert outcome.lacks_room
        return outcome

    for name, deployment in (("old", "llama"), ("other", "other")):
        ledger.place(make_request(instance_id=name, spec=make_spec(name=deployment)))
    fits = refused("new")
    assert (fits.fits_instead, fits.asks_for_room) == (True, True)
    for name, slots, why in (
        ("too-large", 256, "it fits nowhere"),
        ("large", 8, "another deployment is in its way, too"),
    ):
        large = refused(name, options={"slots": slots, "context_length": 8192})
        assert (large.fits_instead, large.asks_for_room) == (False, False), why
    first = refused("first", name="third")
    assert (first.fits_instead, first.asks_for_room) == (None, True), "it replaces nothing"
    ledger.release("old", 1)
    ledger.place(make_request(instance_id="other-2", spec=make_spec(name="other")))
    assert refused("new").fits_instead is None, "the old one is gone"
