"""Claims that are ending: still counted, no longer held, and gone when their worker says so."""

from stoker.domain.absence import Absence
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.reports import REPORT_EVERY_SECONDS, HeldIncarnation, WorkerReport
from stoker.domain.statuses import InstanceProjection
from stoker.domain.workers import WorkerState
from stoker.storage.absence import AbsenceWatch, Use
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.held import Standing, claims_version, held_on, stands
from stoker.storage.instances import Instances
from stoker.storage.removal import remove_worker
from stoker.storage.workers import UNREACHABLE_AFTER, Workers
from tests.builders import make_request
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import booked, host, join, report, size_of_one


def held(database: Database, worker: str = "w1") -> list[tuple[str, int]]:
    """What may run there."""
    with database.read() as session:
        return [(one.instance_id, one.incarnation) for one in held_on(session, worker)]


def version(database: Database, worker: str = "w1") -> int:
    """Of the worker's claims."""
    with database.read() as session:
        return claims_version(session, worker)


def running(*names: str, incarnation: int = 1) -> tuple[HeldIncarnation, ...]:
    """As an agent reports it."""
    return tuple(HeldIncarnation(instance_id=name, incarnation=incarnation) for name in names)


def standing(database: Database, answered: int | None, names: tuple[str, ...] | None) -> Standing:
    """What follows from a report of these running."""
    told = running(*names) if names is not None else None
    with database.read() as session:
        return stands(session, WorkerReport(worker=host(), running=told, answered=answered))


def placed(ledger: ClaimLedger, name: str, incarnation: int = 1) -> str:
    """Claims a place; where."""
    outcome = ledger.place(make_request(instance_id=name, incarnation=incarnation))
    assert isinstance(outcome, Placement)
    return outcome.worker


def test_what_nobody_saw_end_counts_and_is_not_held(database: Database, clock: Clock) -> None:
    join(database, clock, host())
    ledger = ClaimLedger(database, clock)
    placed(ledger, "a")
    assert held(database) == [("a", 1)]
    before = version(database)
    assert ledger.release("a", 1, unconfirmed=["w1"]) == ()
    assert held(database) == []
    assert version(database) > before, "the worker's agent can be told"
    assert booked(database) == {("w1", "cpu"): size_of_one()}
    assert isinstance(ledger.place(make_request(instance_id="b")), Unplaceable), "a process may still be there"


def test_its_worker_confirms_the_end_and_who_fits_is_woken(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)
    placed(ledger, "a")
    placed(ledger, "b")
    assert isinstance(ledger.place(make_request(instance_id="waits")), Unplaceable)
    ledger.release("a", 1, unconfirmed=["w1"])
    assert ledger.confirm_ended("w1", running("a", "b"), version(database)) == ()
    assert booked(database) == {("w1", "cpu"): 2 * size_of_one()}, "it still runs"
    assert ledger.confirm_ended("w1", running("b"), version(database)) == ("waits",)
    assert booked(database) == {("w1", "cpu"): size_of_one()}
    assert ledger.confirm_ended("w1", [], version(database)) == ("waits",), "who fits is worked out anew"
    assert held(database) == [("b", 1)], "what is held goes with no report"
    assert placed(ledger, "waits") == "w1"


def test_a_report_that_is_older_than_the_end_confirms_nothing(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)
    answered = version(database)  # and then the agent looked at what runs: nothing
    placed(ledger, "a")
    ledger.release("a", 1, unconfirmed=["w1"])
    for old in (answered, 0, version(database) - 1, version(database) + 1):
        assert ledger.confirm_ended("w1", [], old) == ()
    assert booked(database) == {("w1", "cpu"): size_of_one()}
    answered = version(database)
    placed(ledger, "b")  # the claims change again, before the next report
    ledger.confirm_ended("w1", [], answered)
    assert booked(database) == {("w1", "cpu"): 2 * size_of_one()}
    ledger.confirm_ended("w1", running("b"), version(database))
    assert booked(database) == {("w1", "cpu"): size_of_one()}


def test_what_a_report_confirms(database: Database, clock: Clock) -> None:
    """Only what is new is worth the claiming lock: mostly nothing is."""
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)
    placed(ledger, "a")
    placed(ledger, "b")
    assert standing(database, version(database), ("a", "b")).confirms is None
    assert standing(database, version(database), ()).confirms is None, "what is held may be about to start"
    ledger.release("a", 1, unconfirmed=["w1"])
    now = version(database)
    assert standing(database, now, ("a", "b")) == Standing(held=running("b"), version=now, confirms=None)
    assert standing(database, now, ("b",)).confirms == running("b")
    assert standing(database, now, ()).confirms == ()
    assert standing(database, now - 1, ("b",)).confirms is None
    assert standing(database, None, ("b",)).confirms is None, "an agent that has just started saw no answer"
    assert standing(database, now, None).confirms is None, "an agent of an older version says nothing of it"


def test_only_the_unconfirmed_workers_claims_stay_and_the_next_incarnation_waits_for_none(
    database: Database, clock: Clock
) -> None:
    for name in ("w1", "w2"):
        join(database, clock, host(name))
    ledger = ClaimLedger(database, clock)
    first = placed(ledger, "a")
    other = {"w1": "w2", "w2": "w1"}[first]
    ledger.release("a", 1, unconfirmed=[first])
    assert placed(ledger, "a", 2) == other
    assert held(database, other) == [("a", 2)]
    ledger.release("a", 2, unconfirmed=["another"])
    assert booked(database) == {(first, "cpu"): size_of_one()}, "what was confirmed is free"
    ledger.release("a", 1)
    ledger.release("a")
    assert booked(database) == {(first, "cpu"): size_of_one()}, "nothing but the worker's word ends it"
    with database.claiming() as session:
        remove_worker(session, clock(), first, force=False)
    assert booked(database) == {}, "it goes with the worker"


def test_an_instance_whose_workflow_is_over_confirmed_nothing(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=2))
    ledger = ClaimLedger(database, clock)
    placed(ledger, "a")
    placed(ledger, "b")
    ledger.abandon("a")
    ledger.abandon("nobody")
    assert (held(database), sum(booked(database).values())) == ([("b", 1)], 2 * size_of_one())


def test_an_incarnation_of_an_instance_that_has_gone_is_not_held(database: Database, clock: Clock) -> None:
    join(database, clock, host(room_for=3))
    ledger = ClaimLedger(database, clock)
    for name in ("gone", "older", "there"):
        placed(ledger, name)
    with database.write() as session:
        Instances(session, clock()).remove("gone")
        later = InstanceProjection(
            instance_id="older", deployment="llama", generation=1, incarnation=2, state=InstanceState.PLACING
        )
        Instances(session, clock()).put(later)
    assert held(database) == [("there", 1)]
    ledger.confirm_ended("w1", running("there", "older"), version(database))
    assert booked(database) == {("w1", "cpu"): 2 * size_of_one()}
    ledger.confirm_ended("w1", running("there"), version(database))
    assert booked(database) == {("w1", "cpu"): size_of_one()}


def test_a_drain_does_not_wait_for_what_is_ending(database: Database, clock: Clock) -> None:
    for name in ("w1", "w2"):
        join(database, clock, host(name))
    ledger = ClaimLedger(database, clock)
    first = placed(ledger, "a")
    ledger.release("a", 1, unconfirmed=[first])
    second = placed(ledger, "a", 2)
    with database.read() as session:
        there = {name: [i.instance_id for i in Instances(session, clock()).on_worker(name)] for name in (first, second)}
    assert there == {first: [], second: ["a"]}


def test_a_report_that_is_not_settled_is_no_sign_of_life(database: Database, clock: Clock) -> None:
    join(database, clock, host())

    def reported(*, settled: bool) -> WorkerState:
        with database.write() as session:
            Workers(session, clock()).report(host(), settled=settled)
        with database.read() as session:
            status = Workers(session, clock()).get("w1")
        assert status is not None
        return status.worker.state

    clock.advance(seconds=UNREACHABLE_AFTER.total_seconds() + 1)
    assert reported(settled=False) is WorkerState.UNREACHABLE
    assert reported(settled=True) is WorkerState.READY
    assert reported(settled=False) is WorkerState.READY, "as it was"
    with database.write() as session:
        Workers(session, clock()).join(host("w2"), credential_hash="", engine_secret="", settled=False)
    with database.read() as session:
        assert {s.worker.name: s.worker.state for s in Workers(session, clock()).all()} == {
            "w1": WorkerState.READY,
            "w2": WorkerState.UNREACHABLE,
        }


def test_who_is_silent_is_found_by_the_rows_and_what_it_holds(database: Database, clock: Clock) -> None:
    for name in ("w1", "w2"):
        join(database, clock, host(name))
    ledger = ClaimLedger(database, clock)
    silent = placed(ledger, "a")
    alive = {"w1": "w2", "w2": "w1"}[silent]
    seconds = 0.0
    watch = AbsenceWatch(database, 30.0, clock=lambda: seconds)

    def look() -> Absence:
        nonlocal seconds
        seconds += REPORT_EVERY_SECONDS
        clock.advance(seconds=REPORT_EVERY_SECONDS)
        report(database, clock, host(alive))
        return watch.look()

    found = [look() for _ in range(9)]
    assert found[:6] == [Absence()] * 6
    assert found[8] == Absence(lost=(silent,))
    assert watch.silence(silent) > 30
    assert watch.uses([silent, alive]) == (Use("a", silent),)
    ledger.release("a", 1, unconfirmed=[silent])
    assert watch.uses([silent]) == ()
    assert look() == Absence(), "it has moved: there is nothing more to do"
