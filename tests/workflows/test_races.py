"""What happens when things happen at once: found by an independent review, each once a defect."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from api import deployment_calls
from api.errors import ProblemError
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import deployment_workflow_id, instance_workflow_id
from stoker.domain.units import MIB
from tests.builders import make_spec, write_tiny_llama
from tests.cluster import Cluster, eventually
from tests.workflows.conftest import cpu_host
from workflows.deployment import Deployment
from workflows.types import ApplyInput, DeleteInput

pytestmark = pytest.mark.anyio

RUNNING, PENDING = InstanceState.RUNNING, InstanceState.PENDING


async def test_a_change_right_behind_another_leaves_no_instance_of_the_old_spec(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model, replicas=4)
    await cluster.apply(spec)
    await cluster.apply(spec.model_copy(update={"options": EngineOptions(slots=2)}))
    instances = await cluster.instances_in("tiny", [RUNNING] * 4, generation=2)
    assert {i.placement.estimate.slots for i in instances if i.placement} == {2}


async def test_a_good_apply_beside_a_refused_one_holds(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    missing = ModelSource.parse(f"{tiny_model}.missing.gguf")
    for number in range(4):
        name = f"tiny-{number}"
        refused, _ = await asyncio.gather(
            cluster.apply(make_spec(name=name, model=missing)),
            cluster.apply(make_spec(name=name, model=tiny_model)),
            return_exceptions=True,
        )
        assert isinstance(refused, ProblemError)
        await cluster.instances_in(name, [RUNNING])
        await cluster.delete(name)
        await cluster.gone(name)


async def test_two_deletions_at_once_leave_no_row(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    for number in range(4):
        name = f"tiny-{number}"
        await cluster.apply(make_spec(name=name, model=tiny_model, replicas=0))
        await asyncio.gather(cluster.delete(name), cluster.delete(name), return_exceptions=True)
        await cluster.gone(name)
        handle = cluster.client.get_workflow_handle(deployment_workflow_id(name))
        await handle.result()
        assert name not in [deployment.spec.name for deployment in cluster.deployments()]


async def test_a_guarded_deletion_behind_a_change_is_refused(
    cluster: Cluster, tiny_model: ModelSource, tmp_path: Path
) -> None:
    host = cpu_host("w1")
    await cluster.add_host(host)
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.stop_agent("w1")  # nobody reads the other model before it is back
    write_tiny_llama(tmp_path / "other.gguf")
    other = make_spec(name="tiny", model=ModelSource.parse(f"file:{tmp_path / 'other.gguf'}"))
    handle = cluster.client.get_workflow_handle_for(Deployment.run, deployment_workflow_id("tiny"))
    accepted = WorkflowUpdateStage.ACCEPTED
    applying = await handle.start_update(Deployment.apply, ApplyInput(spec=other), wait_for_stage=accepted)
    deletion = DeleteInput(expected_generation=1)
    deleting = await handle.start_update(Deployment.delete, deletion, wait_for_stage=accepted)
    await cluster.start_agent(host)
    assert (await applying.result()).generation == 2
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await deleting.result()
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "generation_conflict"
    (after,) = await cluster.instances_in("tiny", [RUNNING], generation=2)
    assert after.instance_id != before.instance_id


async def test_a_guarded_change_of_nothing_leaves_no_workflow(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    with pytest.raises(ProblemError, match="generation 0, not 3"):
        await deployment_calls.apply(cluster.client, make_spec(name="tiny", model=tiny_model), expected_generation=3)
    handle = cluster.client.get_workflow_handle(deployment_workflow_id("tiny"))
    await handle.result()
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_a_selector_that_nobody_matches_does_not_stop_what_runs(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model)
    await cluster.apply(spec)
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.apply(spec.model_copy(update={"devices": (("w1", "gpu7"),)}))
    both = await cluster.instances_in("tiny", [RUNNING, PENDING])
    assert before.instance_id in [instance.instance_id for instance in both]
    await cluster.apply(spec.model_copy(update={"options": EngineOptions(slots=2)}))
    await cluster.instances_in("tiny", [RUNNING], generation=3)


async def test_a_terminated_instance_that_waited_takes_no_wake_up(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1", total=700 * MIB))
    await cluster.apply(make_spec(name="first", model=tiny_model))
    await cluster.instances_in("first", [RUNNING])
    await cluster.apply(make_spec(name="ghost", model=tiny_model))
    (ghost,) = await cluster.instances_in("ghost", [PENDING])
    await cluster.apply(make_spec(name="real", model=tiny_model))
    await cluster.instances_in("real", [PENDING])
    await cluster.client.get_workflow_handle(instance_workflow_id(ghost.instance_id)).terminate()
    (successor,) = await eventually(
        lambda: [i for i in cluster.instances("ghost") if i.instance_id != ghost.instance_id and i.state is PENDING],
        lambda: cluster.instances("ghost"),
    )
    assert successor.placement is None
    await cluster.delete("first")
    await cluster.instances_in("real", [RUNNING])
