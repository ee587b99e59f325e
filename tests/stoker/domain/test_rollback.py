"""When a new generation is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.rollback import (
    MOST_FAILURES,
    ROLLOUT_TIMEOUT_SECONDS,
    time_left,
    time_passes,
    waits_in_vain,
    why_give_up,
)
from stoker.domain.rollout import Replica, ReplicaPhase

STARTING, PENDING, RUNNING, FAILED, STOPPING = (
    ReplicaPhase.STARTING,
    ReplicaPhase.PENDING,
    ReplicaPhase.RUNNING,
    ReplicaPhase.FAILED,
    ReplicaPhase.STOPPING,
)
OLD = Replica(instance_id="old", generation=1, phase=RUNNING)


def new(phase: ReplicaPhase, *, failures: int = 0, trouble: str = "", name: str = "new") -> Replica:
    return Replica(instance_id=name, generation=2, phase=phase, failures=failures, trouble=trouble)


@pytest.mark.parametrize(
    ("there", "seconds", "why"),
    [
        ([OLD], 0, ""),
        ([OLD, new(STARTING)], 0, ""),
        ([OLD, new(STARTING, failures=2, trouble="exit code 1")], 0, ""),
        ([OLD, new(STARTING)], 1799, ""),
        ([OLD, new(PENDING)], 1799, ""),
        ([OLD, new(FAILED, trouble="no such file")], 0, "new: no such file"),
        ([OLD, new(FAILED)], 0, "new: it cannot run"),
        ([OLD, new(STARTING, name="a"), new(FAILED, trouble="bad tensor", name="b")], 0, "b: bad tensor"),
        (
            [OLD, new(STARTING, failures=3, trouble="exit code 1")],
            0,
            "new ended 3 times in a row, the last time: exit code 1",
        ),
        ([OLD, new(PENDING, failures=4)], 0, "new ended 4 times in a row, the last time: nobody knows why"),
        ([OLD, new(STARTING)], 1800, "none of its instances ran within 30 minutes"),
        # what stops anyway, and what is old, says nothing
        ([OLD, new(STOPPING, failures=5)], 0, ""),
        ([Replica(instance_id="old", generation=1, phase=FAILED, failures=9)], 0, ""),
    ],
)
def test_why_give_up(there: list[Replica], seconds: float, why: str) -> None:
    assert why_give_up(2, there, seconds) == why


@pytest.mark.parametrize(
    ("there", "passes"),
    [
        ([], False),
        ([OLD], False),
        ([OLD, new(PENDING)], False),
        ([OLD, new(STOPPING)], False),
        ([OLD, new(STARTING)], True),
        ([OLD, new(PENDING, name="a"), new(STARTING, name="b")], True),
    ],
)
def test_time_stands_still_for_want_of_room_or_of_instances(there: list[Replica], passes: bool) -> None:
    assert time_passes(2, there) is passes


@pytest.mark.parametrize(
    ("there", "in_vain"),
    [
        ([], False),
        ([new(PENDING)], True),
        ([new(PENDING, name="a"), new(STARTING, name="b")], False),  # it found room
        ([OLD, new(PENDING)], False),  # another old one may make room, and answers until then
        ([OLD.model_copy(update={"phase": STOPPING}), new(PENDING)], False),  # its room is to come
        ([OLD.model_copy(update={"phase": FAILED}), new(PENDING)], True),
    ],
)
def test_it_waits_in_vain_once_nothing_is_left_that_answers(there: list[Replica], in_vain: bool) -> None:
    assert waits_in_vain(2, there) is in_vain


def test_waiting_in_vain_has_an_end() -> None:
    assert why_give_up(2, [new(PENDING)], 0, 299.0) == ""
    reason = "it found no room within 5 minutes, though an old instance made some"
    assert why_give_up(2, [new(PENDING)], 0, 300.0) == reason


@given(
    phases=st.lists(st.sampled_from([STARTING, PENDING]), max_size=6),
    failures=st.integers(0, MOST_FAILURES - 1),
    seconds=st.floats(0, ROLLOUT_TIMEOUT_SECONDS, exclude_max=True),
)
def test_what_may_still_come_up_is_never_given_up(phases: list[ReplicaPhase], failures: int, seconds: float) -> None:
    there = [new(phase, failures=failures, name=str(number)) for number, phase in enumerate(phases)]
    assert why_give_up(2, [OLD, *there], seconds) == ""
    assert time_left(seconds) > 0
