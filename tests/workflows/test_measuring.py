"""What an instance took, from its engine's log to its row."""

import pytest

from activities.ports import ProcessKey
from stoker.domain.deployments import InstanceState
from stoker.domain.measured_memory import compare_memory
from stoker.domain.models import ModelSource
from stoker.domain.naming import READY_SIGNAL, instance_workflow_id
from stoker.domain.units import MIB
from tests.builders import make_spec
from tests.cluster import Cluster, eventually_async
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio

LOG_STEP = 0.01 * MIB


async def test_a_row_shows_what_was_measured_even_when_its_log_is_gone(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    host = cpu_host("w1")
    await cluster.add_host(host)
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (instance,) = await cluster.instances_in("tiny", [InstanceState.RUNNING])
    assert instance.placement is not None
    assert instance.memory is not None
    (found,) = compare_memory(instance.placement, instance.memory)
    assert found.measured is not None
    assert found.measured.weights == pytest.approx(found.estimated.weights, abs=LOG_STEP)
    assert found.measured.cache == pytest.approx(found.estimated.cache, abs=LOG_STEP)
    assert found.error_ratio is not None
    assert instance.memory.process_resident > 0

    async def told(times: int) -> bool:
        history = await cluster.client.get_workflow_handle(instance_workflow_id(instance.instance_id)).fetch_history()
        signals = [event.workflow_execution_signaled_event_attributes.signal_name for event in history.events]
        return signals.count(READY_SIGNAL) == times

    assert await told(1)
    await cluster.stop_agent("w1")
    for part in (cluster.folder / "w1" / "logs").iterdir():
        part.write_text("its beginning is gone\n")
    supervisor = await cluster.start_agent(host)
    await eventually_async(lambda: told(2), "the next agent tells that it answers")
    assert await supervisor.measure(ProcessKey(instance_id=instance.instance_id, incarnation=1)) is None
    (after,) = await cluster.instances_in("tiny", [InstanceState.RUNNING])
    assert (after.pid, after.memory) == (instance.pid, instance.memory)
