"""Deployments that demand scales: what is signalled is what runs, and what people see."""

import pytest

from api.deployment_wakes import DeploymentWakes
from entrypoints.clock import utc_now
from entrypoints.rescaling import RescaleCalls
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import deployment_workflow_id
from stoker.domain.scaling import Rescale
from stoker.domain.statuses import DeploymentProjection, DeploymentStatus
from stoker.storage.projections import RowProjections
from tests.builders import make_spec
from tests.cluster import Cluster, eventually, eventually_async
from tests.workflows.conftest import cpu_host
from workflows.deployment import Deployment
from workflows.types import WakeRequest

pytestmark = pytest.mark.anyio

RUNNING = InstanceState.RUNNING


def scaled_spec(model: ModelSource, **fields: object) -> DeploymentSpec:
    """Between none and two."""
    return make_spec(**({"name": "tiny", "model": model, "min_replicas": 0, "max_replicas": 2} | fields))


async def scale(cluster: Cluster, replicas: int, *, seen: int, name: str = "tiny") -> bool:
    """As the control plane does."""
    wanted = Rescale(deployment=name, seen=seen, replicas=replicas, reason="of the test")
    return await RescaleCalls(cluster.client, cluster.database).scale(wanted)


async def asleep(cluster: Cluster, model: ModelSource) -> None:
    """One that sleeps."""
    await cluster.apply(scaled_spec(model))
    await cluster.instances_in("tiny", [RUNNING])
    await scale(cluster, 0, seen=1)
    await shown(cluster, 0)
    await eventually(lambda: not cluster.instances("tiny"), lambda: cluster.instances("tiny"))


async def shown(cluster: Cluster, scaled: int | None, name: str = "tiny") -> DeploymentStatus:
    """The row, once it shows that."""
    return await eventually(
        lambda: next((row for row in cluster.deployments() if row.spec.name == name and row.scaled == scaled), None),
        cluster.deployments,
    )


async def test_demand_puts_to_sleep_and_wakes(cluster: Cluster, tiny_model: ModelSource) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    await cluster.apply(scaled_spec(tiny_model))
    await cluster.instances_in("tiny", [RUNNING])
    assert (await shown(cluster, None)).wanted_replicas == 1, "it begins with `replicas`"

    await scale(cluster, 2, seen=1)
    await cluster.instances_in("tiny", [RUNNING] * 2)
    await scale(cluster, 0, seen=1)  # decided before there were two: too late
    await scale(cluster, 9, seen=2)
    assert (await shown(cluster, 2)).wanted_replicas == 2

    await scale(cluster, 0, seen=2)
    await eventually(lambda: not cluster.instances("tiny"), lambda: cluster.instances("tiny"))
    assert (await shown(cluster, 0)).wanted_replicas == 0
    await eventually(lambda: not supervisor.statuses() and not cluster.claims(), cluster.claims)

    wakes = DeploymentWakes(cluster.client, cluster.database, utc_now)
    for _ in range(20):
        wakes.wake("tiny")
    await cluster.instances_in("tiny", [RUNNING])
    await shown(cluster, 1)
    handle = cluster.client.get_workflow_handle(deployment_workflow_id("tiny"))
    signals = [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in (await handle.fetch_history()).events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert signals.count("wake") == 1, "however many ask"
    await cluster.delete("tiny")
    await cluster.gone("tiny")

    async def is_refused() -> bool:
        return not await scale(cluster, 1, seen=0)

    await eventually_async(is_refused, "the end of its workflow")
    assert not cluster.deployments(), "nothing that was deleted comes back"


@pytest.mark.parametrize("wakes", [True, False])
async def test_one_that_was_terminated_while_it_slept_is_woken(
    cluster: Cluster, tiny_model: ModelSource, wakes: bool
) -> None:
    await cluster.add_host(cpu_host("w1"))
    await asleep(cluster, tiny_model)
    await cluster.client.get_workflow_handle(deployment_workflow_id("tiny")).terminate()
    if wakes:
        DeploymentWakes(cluster.client, cluster.database, utc_now).wake("tiny")
    else:
        assert await scale(cluster, 1, seen=0)
    await cluster.instances_in("tiny", [RUNNING])
    await shown(cluster, 1)
    await cluster.delete("tiny")
    await cluster.gone("tiny")


async def test_a_row_that_shows_another_count_is_written_anew(cluster: Cluster, tiny_model: ModelSource) -> None:
    """A late attempt of an earlier projection wrote it."""
    await cluster.add_host(cpu_host("w1"))
    await asleep(cluster, tiny_model)
    row = await shown(cluster, 0)
    late = DeploymentProjection.model_validate(row.model_dump() | {"scaled": 1})
    RowProjections(cluster.database, utc_now).put_deployment(late)
    await shown(cluster, 1)
    await scale(cluster, 0, seen=1)
    await shown(cluster, 0)
    RowProjections(cluster.database, utc_now).put_deployment(late)
    await scale(cluster, 1, seen=1)
    await cluster.instances_in("tiny", [RUNNING])
    await shown(cluster, 1)
    await cluster.delete("tiny")
    await cluster.gone("tiny")


async def test_a_change_of_the_replicas_says_how_many_there_are_now(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    spec = scaled_spec(tiny_model, replicas=0)
    await cluster.apply(spec)
    handle = cluster.client.get_workflow_handle_for(Deployment.run, deployment_workflow_id("tiny"))
    await handle.signal(Deployment.wake, WakeRequest())
    await shown(cluster, 1)
    await cluster.apply(spec.model_copy(update={"idle_timeout": 60}))
    assert (await shown(cluster, 1)).wanted_replicas == 1, "what demand asks for stays"
    await cluster.apply(spec.model_copy(update={"idle_timeout": 60, "replicas": 2}))
    assert (await shown(cluster, None)).wanted_replicas == 2
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=0))
    await handle.signal(Deployment.wake, WakeRequest())
    await scale(cluster, 2, seen=0)
    assert (await shown(cluster, None)).wanted_replicas == 0, "demand has no say any more"
    await cluster.delete("tiny")
    await cluster.gone("tiny")
