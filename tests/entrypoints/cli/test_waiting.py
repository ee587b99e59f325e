"""When a deployment is where it was wanted. The waiting itself is tested through the commands."""

import pytest

from api.schemas.deployments import DeploymentRead, RolledBackRead
from entrypoints.cli.client import read_as
from entrypoints.cli.waiting import Goal, Verdict
from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import DeploymentStatus
from tests.builders import make_files, make_profile, make_spec
from tests.fakes.api import CREATED_AT, make_instance

RUNNING, STARTING, FAILED = InstanceState.RUNNING, InstanceState.STARTING, InstanceState.FAILED
STOPPING, PENDING, BACKOFF = InstanceState.STOPPING, InstanceState.PENDING, InstanceState.BACKOFF


def make_read(
    *instances: tuple[int, InstanceState],
    generation: int,
    instances_generation: int = 1,
    scaled: int | None = None,
    **spec_fields: object,
) -> DeploymentRead:
    """A deployment with instances, each of a generation and in a state."""
    spec = make_spec(**spec_fields)
    status = DeploymentStatus(
        spec=spec,
        generation=generation,
        instances_generation=instances_generation,
        profile=make_profile(),
        files=make_files(spec.model),
        scaled=scaled,
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
    )
    made = [make_instance(state, generation=of, instance_id=f"llama-{n}") for n, (of, state) in enumerate(instances)]
    return DeploymentRead.of_status(status, tuple(made))


@pytest.mark.parametrize(
    ("goal", "wanted", "generation", "instances", "verdict"),
    [
        (Goal(generation=1), 1, 1, [], Verdict.WAITING),
        (Goal(generation=1), 1, 1, [(1, STARTING)], Verdict.WAITING),
        (Goal(generation=1), 1, 1, [(1, PENDING)], Verdict.WAITING),
        (Goal(generation=1), 1, 1, [(1, BACKOFF)], Verdict.WAITING),
        (Goal(generation=1), 1, 1, [(1, RUNNING)], Verdict.REACHED),
        (Goal(generation=1), 2, 1, [(1, RUNNING), (1, STARTING)], Verdict.WAITING),
        (Goal(generation=1), 2, 1, [(1, RUNNING), (1, FAILED)], Verdict.FAILED),
        (Goal(generation=1), 0, 1, [], Verdict.REACHED),
        # an older view of the deployment says nothing
        (Goal(generation=2), 1, 1, [(1, RUNNING)], Verdict.WAITING),
        (Goal(generation=2), 1, 3, [(1, RUNNING)], Verdict.REACHED),
        # scaled down: the others must be gone
        (Goal(generation=2, exactly=True), 1, 2, [(1, RUNNING), (1, STOPPING)], Verdict.WAITING),
        (Goal(generation=2, exactly=True), 1, 2, [(1, RUNNING)], Verdict.REACHED),
        (Goal(generation=2, exactly=True), 0, 2, [(1, STOPPING)], Verdict.WAITING),
        (Goal(generation=2, exactly=True), 0, 2, [], Verdict.REACHED),
    ],
)
def test_judge(
    goal: Goal, wanted: int, generation: int, instances: list[tuple[int, InstanceState]], verdict: Verdict
) -> None:
    assert goal.judge(make_read(*instances, generation=generation, replicas=wanted)) is verdict


@pytest.mark.parametrize("exactly", [True, False])
def test_what_demand_scales_down_meanwhile_is_not_waited_for(exactly: bool) -> None:
    goal, between = Goal(generation=1, exactly=exactly), {"replicas": 2, "min_replicas": 0, "max_replicas": 3}
    assert goal.judge(make_read((1, STARTING), (1, RUNNING), generation=1, **between)) is Verdict.WAITING
    assert goal.judge(make_read((1, RUNNING), generation=1, scaled=1, **between)) is Verdict.REACHED
    assert goal.judge(make_read(generation=1, scaled=0, **between)) is Verdict.REACHED, "it sleeps"


@pytest.mark.parametrize(
    ("instances", "verdict"),
    [
        ([(1, RUNNING)], Verdict.WAITING),
        ([(1, FAILED)], Verdict.WAITING),
        ([(1, RUNNING), (2, STARTING)], Verdict.WAITING),
        ([(1, RUNNING), (2, RUNNING)], Verdict.REACHED),
        ([(1, RUNNING), (2, FAILED)], Verdict.WAITING),  # for the roll-back, which says why
        ([(1, FAILED), (2, FAILED)], Verdict.FAILED),
        ([(1, RUNNING), (2, FAILED), (2, RUNNING), (2, RUNNING)], Verdict.FAILED),
    ],
)
def test_what_is_being_replaced_does_not_count(instances: list[tuple[int, InstanceState]], verdict: Verdict) -> None:
    read = make_read(*instances, generation=2, instances_generation=2, replicas=max(1, len(instances) - 1))
    assert Goal(generation=2).judge(read) is verdict


@pytest.mark.parametrize(("given_up", "verdict"), [(1, Verdict.REACHED), (2, Verdict.FAILED), (3, Verdict.FAILED)])
def test_what_was_rolled_back_is_not_waited_for(given_up: int, verdict: Verdict) -> None:
    read = make_read((1, RUNNING), generation=4, instances_generation=1)
    read = read.model_copy(update={"rolled_back": RolledBackRead(generation=given_up, reason="no such file")})
    assert Goal(generation=2).judge(read) is verdict


def test_what_is_left_of_a_generation_that_was_rolled_back_does_not_count() -> None:
    one, two = (
        make_read((1, RUNNING), (2, FAILED), generation=3, instances_generation=1, replicas=wanted) for wanted in (1, 2)
    )
    assert Goal(generation=3).judge(one) is Verdict.REACHED
    assert Goal(generation=3).judge(two) is Verdict.WAITING
    assert one.state == "running"


def test_a_newer_server_may_say_more() -> None:
    said = make_read((1, RUNNING), generation=1).model_dump(mode="json")
    newer = said | {"colour": "red", "options": said["options"] | {"speed": 9}}
    assert read_as(DeploymentRead, newer) == read_as(DeploymentRead, said)
