"""How much time requests in work get when their instance is told to stop."""

import pytest

from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import instance_workflow_id
from tests.builders import make_spec
from tests.cluster import Cluster
from tests.workflows.conftest import join_hosts
from workflows import options
from workflows.types import StopRequest

pytestmark = pytest.mark.anyio

RUNNING = InstanceState.RUNNING


async def test_one_that_is_retired_has_time_for_its_requests_and_one_that_is_deleted_has_less(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    async def patience(instance_id: str) -> float:
        """Seconds that the instance was told to give to requests in work."""
        handle = cluster.client.get_workflow_handle(instance_workflow_id(instance_id))
        async for event in handle.fetch_history_events():
            told = event.workflow_execution_signaled_event_attributes
            if told.signal_name == "stop":
                (request,) = await cluster.client.data_converter.decode(told.input.payloads, [StopRequest])
                seconds: float = request.patience
                return seconds
        raise AssertionError(f"{instance_id} was not told to stop")

    await join_hosts(cluster, "w1")
    spec = make_spec(name="tiny", model=tiny_model, replicas=2)
    await cluster.apply(spec)
    both = await cluster.instances_in("tiny", [RUNNING] * 2)
    await cluster.apply(spec.model_copy(update={"replicas": 1}))
    (left,) = await cluster.instances_in("tiny", [RUNNING])
    (retired,) = {one.instance_id for one in both} - {left.instance_id}
    await cluster.delete("tiny")
    await cluster.gone("tiny")
    assert await patience(retired) == options.DRAIN_PATIENCE_SECONDS
    assert await patience(left.instance_id) == options.DRAIN_TIMEOUT_SECONDS
