"""When a deployment is where it was wanted. The waiting itself is tested through the commands."""

import pytest

from api.schemas.deployments import DeploymentRead
from entrypoints.cli.client import read_as
from entrypoints.cli.waiting import Goal, Verdict
from stoker.domain.deployments import DeploymentSpec, EngineOptions, InstanceState
from stoker.domain.statuses import DeploymentStatus
from tests.builders import make_files, make_profile, make_spec
from tests.fakes.api import CREATED_AT, make_instance

RUNNING, STARTING, FAILED = InstanceState.RUNNING, InstanceState.STARTING, InstanceState.FAILED
STOPPING, PENDING, BACKOFF = InstanceState.STOPPING, InstanceState.PENDING, InstanceState.BACKOFF


def make_read(
    *instances: tuple[int, InstanceState], generation: int, spec: DeploymentSpec | None = None
) -> DeploymentRead:
    """A deployment with instances, each of a generation and in a state."""
    spec = spec or make_spec()
    status = DeploymentStatus(
        spec=spec,
        generation=generation,
        profile=make_profile(),
        files=make_files(spec.model),
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
    )
    made = [make_instance(state, generation=of, instance_id=f"llama-{n}") for n, (of, state) in enumerate(instances)]
    return DeploymentRead.of_status(status, tuple(made))


@pytest.mark.parametrize(
    ("goal", "generation", "instances", "verdict"),
    [
        (Goal(generation=1, replicas=1), 1, [], Verdict.WAITING),
        (Goal(generation=1, replicas=1), 1, [(1, STARTING)], Verdict.WAITING),
        (Goal(generation=1, replicas=1), 1, [(1, PENDING)], Verdict.WAITING),
        (Goal(generation=1, replicas=1), 1, [(1, BACKOFF)], Verdict.WAITING),
        (Goal(generation=1, replicas=1), 1, [(1, RUNNING)], Verdict.REACHED),
        (Goal(generation=1, replicas=2), 1, [(1, RUNNING), (1, STARTING)], Verdict.WAITING),
        (Goal(generation=1, replicas=2), 1, [(1, RUNNING), (1, FAILED)], Verdict.FAILED),
        (Goal(generation=1, replicas=0), 1, [], Verdict.REACHED),
        # an older view of the deployment says nothing
        (Goal(generation=2, replicas=1), 1, [(1, RUNNING)], Verdict.WAITING),
        (Goal(generation=2, replicas=1), 3, [(1, RUNNING)], Verdict.REACHED),
        # what is about to be replaced does not count, whether it runs or failed
        (Goal(generation=2, replicas=1, since=2), 2, [(1, RUNNING)], Verdict.WAITING),
        (Goal(generation=2, replicas=1, since=2), 2, [(1, FAILED)], Verdict.WAITING),
        (Goal(generation=2, replicas=1, since=2), 2, [(1, RUNNING), (2, STARTING)], Verdict.WAITING),
        (Goal(generation=2, replicas=1, since=2), 2, [(1, RUNNING), (2, RUNNING)], Verdict.REACHED),
        (Goal(generation=2, replicas=1, since=2), 2, [(1, RUNNING), (2, FAILED)], Verdict.FAILED),
        # scaled down: the others must be gone
        (Goal(generation=2, replicas=1, exactly=True), 2, [(1, RUNNING), (1, STOPPING)], Verdict.WAITING),
        (Goal(generation=2, replicas=1, exactly=True), 2, [(1, RUNNING)], Verdict.REACHED),
        (Goal(generation=2, replicas=0, exactly=True), 2, [(1, STOPPING)], Verdict.WAITING),
        (Goal(generation=2, replicas=0, exactly=True), 2, [], Verdict.REACHED),
    ],
)
def test_judge(goal: Goal, generation: int, instances: list[tuple[int, InstanceState]], verdict: Verdict) -> None:
    assert goal.judge(make_read(*instances, generation=generation)) is verdict


def test_a_newer_server_may_say_more() -> None:
    said = make_read((1, RUNNING), generation=1).model_dump(mode="json")
    newer = said | {"colour": "red", "options": said["options"] | {"speed": 9}}
    assert read_as(DeploymentRead, newer) == read_as(DeploymentRead, said)


SPEC = make_spec(replicas=1)


@pytest.mark.parametrize(
    ("before", "after", "since"),
    [
        (None, SPEC, 0),
        (SPEC, SPEC, 0),
        (SPEC, make_spec(replicas=3), 0),
        (SPEC, make_spec(priority=7), 0),
        (SPEC, make_spec(options=EngineOptions(slots=1)), 2),
        (SPEC, make_spec(model="hf:other/model:Q4_0"), 2),
    ],
)
def test_only_a_change_that_replaces_instances_asks_for_new_ones(
    before: DeploymentSpec | None, after: DeploymentSpec, since: int
) -> None:
    old = make_read(generation=1, spec=before) if before is not None else None
    goal = Goal.after_change(old, make_read(generation=2, spec=after))
    assert goal == Goal(generation=2, replicas=after.replicas, since=since)
