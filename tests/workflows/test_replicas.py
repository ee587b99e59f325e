"""What a deployment remembers of its replicas."""

import pytest

from stoker.domain.rollout import Replica, ReplicaPhase
from workflows.replicas import replaced, to_keep, to_replace, with_phase, without
from workflows.types import DeploymentState, ReplaceRequest

RUNNING, STOPPING = ReplicaPhase.RUNNING, ReplicaPhase.STOPPING
BOTH = DeploymentState(
    generation=7,
    replicas=(
        Replica(instance_id="a", generation=1, phase=RUNNING),
        Replica(instance_id="b", generation=1, phase=STOPPING),
    ),
)
REQUEST = ReplaceRequest(instance_id="a", reason="w1 is being drained", tell="drain/w1")


def leaving(state: DeploymentState) -> list[str]:
    return [replica.instance_id for replica in state.replicas if replica.leaving]


@pytest.mark.parametrize(
    ("instance_id", "phases"),
    [
        ("a", [ReplicaPhase.FAILED, STOPPING]),
        ("b", [RUNNING, STOPPING]),  # it was told to stop: nothing that it says changes that
        ("c", [RUNNING, STOPPING]),
    ],
)
def test_a_phase(instance_id: str, phases: list[ReplicaPhase]) -> None:
    state = with_phase(BOTH, instance_id, ReplicaPhase.FAILED)
    assert [replica.phase for replica in state.replicas] == phases
    assert state.generation == 7


def test_one_that_is_gone() -> None:
    assert [replica.instance_id for replica in without(BOTH, "a").replicas] == ["b"]
    assert without(BOTH, "c") == BOTH


def test_one_to_replace_and_to_keep() -> None:
    asked = to_replace(BOTH, REQUEST)
    assert (leaving(asked), asked.replacing, replaced(asked)) == (["a"], (REQUEST,), ())
    assert to_replace(asked, REQUEST) == asked, "it may be asked for again"
    assert to_keep(asked, "a") == BOTH
    assert to_keep(asked, "c") == asked


def test_whoever_asked_last_is_told_when_it_is_gone() -> None:
    later = REQUEST.model_copy(update={"tell": "somebody-else"})
    gone = without(to_replace(to_replace(BOTH, REQUEST), later), "a")
    assert replaced(gone) == (later,)
    assert replaced(to_keep(gone, "a")) == ()


def test_one_that_is_not_known_is_gone_already() -> None:
    request = REQUEST.model_copy(update={"instance_id": "c"})
    assert replaced(to_replace(BOTH, request)) == (request,)
