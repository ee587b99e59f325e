"""Those who wait: in which order they are served, what they hold of the fleet, and that they are parsed once."""

from collections.abc import Callable

import pytest
from sqlalchemy import event

from stoker.domain.deployments import EngineOptions
from stoker.domain.placement.types import Placement, PlacementRequest, Rule, Unplaceable
from stoker.domain.statuses import DeploymentProjection
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.pending import PendingRequests
from stoker.storage.projections import RowProjections
from tests.builders import make_files, make_profile, make_request, make_spec
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import host, join

HOLD = 600.0
ROOM = 3  # of what `make_request()` takes


def request(name: str, *, priority: int = 0, context: int = 4096, **overrides: object) -> PlacementRequest:
    """An instance of its own deployment; one of 40,960 tokens takes about three times as much as one of 4,096."""
    spec = make_spec(name=name, priority=priority, options=EngineOptions(context_length=context))
    return make_request(instance_id=name, spec=spec, **overrides)


def big(name: str, priority: int = 0) -> PlacementRequest:
    """It needs the whole of `w1`."""
    return request(name, priority=priority, context=40_960)


@pytest.fixture
def ledger(database: Database, clock: Clock) -> ClaimLedger:
    """`w1` has room for one big instance, or some small ones; a small one has it, and a big one waits."""
    join(database, clock, host("w1", room_for=ROOM))
    ledger = ClaimLedger(database, clock, pending_hold=HOLD)
    assert isinstance(ledger.place(request("small")), Placement)
    assert isinstance(ledger.place(big("big")), Unplaceable)
    return ledger


@pytest.fixture
def wait(database: Database, clock: Clock) -> Callable[[float], None]:
    """Time goes by, and the worker goes on reporting."""

    def waited(seconds: float) -> None:
        clock.advance(seconds=seconds)
        join(database, clock, host("w1", room_for=ROOM))

    return waited


def test_a_small_one_goes_before_a_big_one_that_has_not_waited_long(
    ledger: ClaimLedger, wait: Callable[[float], None]
) -> None:
    wait(HOLD - 1)
    assert isinstance(ledger.place(request("late")), Placement)


def test_one_that_has_waited_long_reserves_against_younger_ones(
    ledger: ClaimLedger, wait: Callable[[float], None]
) -> None:
    wait(HOLD)
    outcome = ledger.place(request("late"))
    assert isinstance(outcome, Unplaceable)
    assert Rule.RESERVED in {rejection.rule for rejection in outcome.rejections}
    assert ledger.release("small") == ("big",), "and the younger one waits on"
    assert isinstance(ledger.place(big("big")), Placement)


def test_a_higher_priority_is_not_held_up(ledger: ClaimLedger, wait: Callable[[float], None]) -> None:
    wait(HOLD)
    assert isinstance(ledger.place(request("late", priority=1)), Placement)


def test_the_priority_of_today_decides_who_is_held_up(
    ledger: ClaimLedger, wait: Callable[[float], None], database: Database, clock: Clock
) -> None:
    raised = DeploymentProjection(
        spec=make_spec(name="late", priority=1), generation=2, profile=make_profile(), files=make_files()
    )
    RowProjections(database, clock).put_deployment(raised)
    wait(HOLD)
    assert isinstance(ledger.place(request("late")), Placement)


def test_the_older_of_two_that_wait_is_not_held_up_by_the_younger(
    database: Database, clock: Clock, wait: Callable[[float], None]
) -> None:
    ledger = ClaimLedger(database, clock, pending_hold=HOLD)
    assert isinstance(ledger.place(request("older")), Unplaceable)
    clock.advance(seconds=1)
    assert isinstance(ledger.place(big("younger")), Unplaceable)
    wait(HOLD)
    assert [one.request.instance_id for one in ledger.waiting()] == ["older", "younger"]
    assert isinstance(ledger.place(request("older")), Placement)


def test_what_waits_is_told_with_its_age_and_the_priority_of_today(
    ledger: ClaimLedger, database: Database, clock: Clock
) -> None:
    clock.advance(seconds=30)
    assert isinstance(ledger.place(big("next", priority=7)), Unplaceable)
    clock.advance(seconds=5)
    assert [(w.request, w.priority, w.waited_seconds) for w in ledger.waiting()] == [
        (big("big"), 0, 35.0),
        (big("next", priority=7), 7, 5.0),
    ]
    lowered = DeploymentProjection(
        spec=make_spec(name="next", priority=-3), generation=2, profile=make_profile(), files=make_files()
    )
    RowProjections(database, clock).put_deployment(lowered)
    assert [w.priority for w in ledger.waiting()] == [0, -3]


def test_what_is_asked_for_is_parsed_once_until_it_changes(
    ledger: ClaimLedger, database: Database, clock: Clock
) -> None:
    ledger.place(big("next"))
    pending = PendingRequests()

    def waiting() -> dict[str, PlacementRequest]:
        with database.read() as session:
            return {one.request.instance_id: one.request for one in pending.waiting(session, clock())}

    first = waiting()
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    again = waiting()
    assert all(again[name] is first[name] for name in ("big", "next"))
    assert len([statement for statement in asked if statement.startswith("SELECT")]) == 1
    changed = big("big").model_copy(update={"incarnation": 2, "avoid": ("w7",)})
    assert isinstance(ledger.place(changed), Unplaceable)
    last = waiting()
    assert (last["big"], last["next"]) == (changed, first["next"])
    assert last["next"] is first["next"]


def test_replicas_share_one_profile_in_memory(ledger: ClaimLedger, database: Database, clock: Clock) -> None:
    for number in range(3):
        assert isinstance(ledger.place(big("big").model_copy(update={"instance_id": f"big-{number}"})), Unplaceable)
    with database.read() as session:
        found = PendingRequests().waiting(session, clock())
    assert len(found) == 4
    assert len({id(one.request.profile) for one in found}) == 1


def test_one_that_waits_no_more_is_forgotten(ledger: ClaimLedger, database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    assert [one.request.instance_id for one in ledger.waiting()] == ["big"]
    rows.remove_instance("big")
    assert ledger.waiting() == ()
    assert ledger.release("small") == ()
