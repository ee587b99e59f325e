"""What a deployment starts and stops next."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.domain.rollout import Plan, Replica, ReplicaPhase, plan

STARTING, PENDING, RUNNING, FAILED, STOPPING = (
    ReplicaPhase.STARTING,
    ReplicaPhase.PENDING,
    ReplicaPhase.RUNNING,
    ReplicaPhase.FAILED,
    ReplicaPhase.STOPPING,
)


Entry = tuple[str, int, ReplicaPhase]


def replicas(*entries: Entry, leaving: str = "") -> list[Replica]:
    """`leaving`: the names of those that leave their worker."""
    return [
        Replica(instance_id=name, generation=generation, phase=phase, leaving=name in leaving.split())
        for name, generation, phase in entries
    ]


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (0, [], Plan()),
        (3, [], Plan(start=3)),
        (2, [("a", 2, STARTING)], Plan(start=1)),
        (1, [("a", 2, RUNNING)], Plan()),
        (1, [("a", 2, STOPPING)], Plan(start=1)),
        (0, [("a", 2, RUNNING), ("b", 2, PENDING)], Plan(stop=("b", "a"))),
        # too many: the least useful first, then the youngest
        (1, [("a", 2, RUNNING), ("b", 2, PENDING)], Plan(stop=("b",))),
        (1, [("a", 2, RUNNING), ("b", 2, RUNNING), ("c", 2, RUNNING)], Plan(stop=("c", "b"))),
        (2, [("a", 2, FAILED), ("b", 2, RUNNING), ("c", 2, STARTING)], Plan(stop=("a",))),
        # a roll: one more, wait, one less
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING)], Plan(start=1)),
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, STARTING)], Plan()),
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, RUNNING)], Plan(stop=("a",))),
        (2, [("a", 1, STOPPING), ("b", 1, RUNNING), ("c", 2, RUNNING)], Plan(start=1)),
        (2, [("b", 1, RUNNING), ("c", 2, RUNNING), ("d", 2, RUNNING)], Plan(stop=("b",))),
        # old ones that help nobody go at once
        (1, [("a", 1, PENDING)], Plan(start=1, stop=("a",))),
        (1, [("a", 1, FAILED)], Plan(start=1, stop=("a",))),
        # no room for the surge: one old one makes room, and only one
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, PENDING)], Plan(stop=("a",), makes_room=True)),
        (2, [("a", 1, STOPPING), ("b", 1, RUNNING), ("c", 2, PENDING)], Plan()),
        # a new one that failed holds the roll up: the old ones go on
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, FAILED)], Plan()),
    ],
)
def test_plan(wanted: int, there: list[Entry], expected: Plan) -> None:
    assert plan(wanted, 2, replicas(*there)) == expected


@pytest.mark.parametrize(
    ("wanted", "there", "leaving", "expected"),
    [
        # like an old one: one more, wait, then it goes, although it is not the oldest
        (1, [("a", 2, RUNNING)], "a", Plan(start=1)),
        (1, [("a", 2, RUNNING), ("b", 2, STARTING)], "a", Plan()),
        (1, [("a", 2, RUNNING), ("b", 2, RUNNING)], "a", Plan(stop=("a",))),
        (2, [("a", 2, RUNNING), ("b", 2, RUNNING), ("c", 2, RUNNING)], "b", Plan(stop=("b",))),
        # two of them: one after the other
        (2, [("a", 2, RUNNING), ("b", 2, RUNNING)], "a b", Plan(start=1)),
        (2, [("a", 2, RUNNING), ("b", 2, RUNNING), ("c", 2, RUNNING)], "a b", Plan(stop=("a",))),
        (2, [("a", 2, STOPPING), ("b", 2, RUNNING), ("c", 2, RUNNING)], "a b", Plan(start=1)),
        # one that does not run goes at once
        (1, [("a", 2, STARTING)], "a", Plan(start=1, stop=("a",))),
        (1, [("a", 2, PENDING)], "a", Plan(start=1, stop=("a",))),
        (2, [("a", 2, FAILED), ("b", 2, RUNNING)], "a", Plan(start=1, stop=("a",))),
        # no room for the surge: it makes room itself, one at a time
        (1, [("a", 2, RUNNING), ("b", 2, PENDING)], "a", Plan(stop=("a",), makes_room=True)),
        (2, [("a", 2, RUNNING), ("b", 2, RUNNING), ("c", 2, PENDING)], "a b", Plan(stop=("a",), makes_room=True)),
        (2, [("a", 2, STOPPING), ("b", 2, RUNNING), ("c", 2, PENDING)], "a b", Plan()),
        # nobody is wanted for it any more
        (1, [("a", 2, RUNNING), ("b", 2, RUNNING)], "b", Plan(stop=("b",))),
        (0, [("a", 2, RUNNING)], "a", Plan(stop=("a",))),
        # in the midst of a roll it goes before the older one that stays on its worker
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, RUNNING)], "b", Plan(stop=("b",))),
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, PENDING)], "b", Plan(stop=("b",), makes_room=True)),
        # kept after all: the one that was to take its place goes
        (1, [("a", 2, RUNNING), ("b", 2, STARTING)], "", Plan(stop=("b",))),
    ],
)
def test_plan_for_those_that_leave(wanted: int, there: list[Entry], leaving: str, expected: Plan) -> None:
    assert plan(wanted, 2, replicas(*there, leaving=leaving)) == expected


fleets = st.lists(
    st.builds(
        Replica,
        instance_id=st.just(""),
        generation=st.integers(1, 3),
        phase=st.sampled_from([STARTING, PENDING, RUNNING, FAILED, STOPPING]),
        leaving=st.booleans(),
    ),
    max_size=8,
).map(lambda them: [one.model_copy(update={"instance_id": f"r{index}"}) for index, one in enumerate(them)])


def is_new(replica: Replica) -> bool:
    """Of the wanted generation, and not to leave."""
    return replica.generation == 3 and not replica.leaving


@given(st.integers(0, 5), fleets)
def test_a_plan_never_stops_what_is_stopping_and_never_starts_too_many(wanted: int, fleet: list[Replica]) -> None:
    step = plan(wanted, 3, fleet)
    live = {replica.instance_id: replica for replica in fleet if replica.phase is not STOPPING}
    assert set(step.stop) <= set(live)
    assert len(set(step.stop)) == len(step.stop)
    new = [r for r in live.values() if is_new(r) and r.instance_id not in step.stop]
    assert len(new) + step.start <= max(wanted, 0)


@given(st.integers(0, 5), fleets)
def test_running_ones_are_never_stopped_below_what_is_wanted_while_there_is_room(
    wanted: int, fleet: list[Replica]
) -> None:
    if any(replica.phase is PENDING and is_new(replica) for replica in fleet):
        return  # there is no room: one old one may go
    step = plan(wanted, 3, fleet)
    running = [replica for replica in fleet if replica.phase is RUNNING]
    left = [replica for replica in running if replica.instance_id not in step.stop]
    assert len(left) >= min(wanted, len(running))


@settings(max_examples=200)
@given(st.integers(0, 4), fleets)
def test_every_fleet_comes_to_rest_at_what_is_wanted(wanted: int, fleet: list[Replica]) -> None:
    """Whatever happens in between, started ones run in the end and stopped ones go."""
    for step_number in range(100):
        step = plan(wanted, 3, fleet)
        fleet = [
            replica.model_copy(update={"phase": STOPPING}) if replica.instance_id in step.stop else replica
            for replica in fleet
        ]
        fleet += [Replica(instance_id=f"s{step_number}-{n}", generation=3) for n in range(step.start)]
        gone = [replica for replica in fleet if replica.phase is STOPPING]
        fleet = [replica for replica in fleet if replica.phase is not STOPPING]
        moved = [
            replica.model_copy(update={"phase": RUNNING}) if replica.phase in (STARTING, PENDING) else replica
            for replica in fleet
        ]
        if step == Plan() and moved == fleet and not gone:
            break
        fleet = moved
    if any(replica.phase is FAILED and is_new(replica) for replica in fleet):
        return  # waits for a changed spec, and the old ones go on
    assert [(one.generation, one.phase, one.leaving) for one in fleet] == [(3, RUNNING, False)] * wanted


@settings(max_examples=200)
@given(st.integers(1, 4), st.data())
def test_those_that_leave_are_replaced_one_by_one_while_as_many_run_as_are_wanted(
    wanted: int, data: st.DataObject
) -> None:
    """Of a deployment at rest; each step, some of what was started comes to run, and what was stopped goes."""
    fleet = [
        Replica(instance_id=f"r{number}", generation=3, phase=RUNNING, leaving=data.draw(st.booleans()))
        for number in range(wanted)
    ]
    staying = {replica.instance_id for replica in fleet if not replica.leaving}
    for step_number in range(100):
        step = plan(wanted, 3, fleet)
        assert len(step.stop) <= 1
        fleet = [one for one in fleet if one.instance_id not in step.stop]
        fleet += [Replica(instance_id=f"s{step_number}-{number}", generation=3) for number in range(step.start)]
        assert sum(replica.phase is RUNNING for replica in fleet) >= wanted
        assert len(fleet) <= wanted + 1
        starting = [replica for replica in fleet if replica.phase is STARTING]
        if step == Plan() and not starting:
            break
        for replica in starting:
            if step == Plan() or data.draw(st.booleans()):
                fleet[fleet.index(replica)] = replica.model_copy(update={"phase": RUNNING})
    assert len(fleet) == wanted
    assert not any(replica.leaving for replica in fleet)
    assert staying <= {replica.instance_id for replica in fleet}
