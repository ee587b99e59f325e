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


def replicas(*entries: tuple[str, int, ReplicaPhase]) -> list[Replica]:
    return [Replica(instance_id=name, generation=generation, phase=phase) for name, generation, phase in entries]


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
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, PENDING)], Plan(stop=("a",))),
        (2, [("a", 1, STOPPING), ("b", 1, RUNNING), ("c", 2, PENDING)], Plan()),
        # a new one that failed holds the roll up: the old ones go on
        (2, [("a", 1, RUNNING), ("b", 1, RUNNING), ("c", 2, FAILED)], Plan()),
    ],
)
def test_plan(wanted: int, there: list[tuple[str, int, ReplicaPhase]], expected: Plan) -> None:
    assert plan(wanted, 2, replicas(*there)) == expected


fleets = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([STARTING, PENDING, RUNNING, FAILED, STOPPING])), max_size=8
).map(lambda entries: replicas(*((f"r{index}", *entry) for index, entry in enumerate(entries))))


@given(st.integers(0, 5), fleets)
def test_a_plan_never_stops_what_is_stopping_and_never_starts_too_many(wanted: int, fleet: list[Replica]) -> None:
    step = plan(wanted, 3, fleet)
    live = {replica.instance_id: replica for replica in fleet if replica.phase is not STOPPING}
    assert set(step.stop) <= set(live)
    assert len(set(step.stop)) == len(step.stop)
    new = [r for r in live.values() if r.generation == 3 and r.instance_id not in step.stop]
    assert len(new) + step.start <= max(wanted, 0)


@given(st.integers(0, 5), fleets)
def test_running_ones_are_never_stopped_below_what_is_wanted_while_there_is_room(
    wanted: int, fleet: list[Replica]
) -> None:
    if any(replica.phase is PENDING and replica.generation == 3 for replica in fleet):
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
    failed = [replica for replica in fleet if replica.phase is FAILED and replica.generation == 3]
    if failed:
        return  # waits for a changed spec, and the old ones go on
    assert [(replica.generation, replica.phase) for replica in fleet] == [(3, RUNNING)] * wanted
