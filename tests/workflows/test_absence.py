"""What happens while an agent or a whole host is away: engines go on, agents adopt, and a lost host is replaced."""

from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from activities.ports import ProcessKey
from activities.types import MainReady
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import READY_SIGNAL, instance_workflow_id
from stoker.domain.statuses import InstanceStatus
from tests.builders import make_spec
from tests.cluster import Cluster, eventually, temporal
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio

RUNNING = InstanceState.RUNNING


@pytest.fixture
async def skipping_cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose Temporal does not wait for time-outs: it skips to them."""
    async with temporal(time_skipping=True) as environment, Cluster(environment.client, tmp_path) as running:
        yield running


async def test_an_agent_that_comes_back_adopts_the_engine(cluster: Cluster, tiny_model: ModelSource) -> None:
    host = cpu_host("w1")
    await cluster.add_host(host)
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.stop_agent("w1")
    assert psutil.pid_exists(before.pid)
    supervisor = await cluster.start_agent(host)
    key = ProcessKey(instance_id=before.instance_id, incarnation=1)
    assert supervisor.statuses()[key].adopted
    assert supervisor.statuses()[key].pid == before.pid
    await cluster.delete("tiny")  # the new agent is the one that ends it
    await cluster.gone("tiny")
    assert not psutil.pid_exists(before.pid)
    assert cluster.claims() == ()


async def test_an_engine_that_loads_again_is_not_routable_until_it_answers(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    handle = cluster.client.get_workflow_handle(instance_workflow_id(before.instance_id))

    async def shown(ready: MainReady) -> InstanceStatus:
        """The row, once it shows what the instance was told."""
        await handle.signal(READY_SIGNAL, ready)
        (found,) = await eventually(
            lambda: [i for i in cluster.instances("tiny") if (i.port, i.pid) == (ready.port, ready.pid)],
            lambda: cluster.instances("tiny"),
        )
        return found

    loading = await shown(MainReady(incarnation=1, port=0, pid=before.pid + 1))
    assert (loading.state, loading.message) == (InstanceState.STARTING, "loads again on w1")
    assert (loading.memory, loading.load_seconds) == (None, 0.0), "what the one before took says nothing of this one"
    again = await shown(MainReady(incarnation=1, port=before.port, pid=before.pid + 1, load_seconds=2.0))
    assert (again.state, again.message, again.load_seconds) == (RUNNING, "answers on w1", 2.0)


async def test_an_engine_that_ended_while_the_agent_was_away_is_started_anew(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    host = cpu_host("w1")
    await cluster.add_host(host)
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.stop_agent("w1")
    psutil.Process(before.pid).kill()
    await cluster.start_agent(host)
    await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.incarnation == 2],
        lambda: cluster.instances("tiny"),
    )
    assert [claim.incarnation for claim in cluster.claims()] == [2]


async def test_a_host_that_is_gone_for_good_is_replaced_by_another(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.add_host(cpu_host("w2"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    assert before.placement is not None
    await cluster.stop_agent(before.placement.worker)
    (after,) = await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.incarnation > 1],
        lambda: cluster.instances("tiny"),
        seconds=120,  # schedule-to-start of the process's activity, which Temporal does not skip
    )
    assert after.placement is not None
    assert after.placement.worker != before.placement.worker
    assert {claim.worker for claim in cluster.claims()} == {after.placement.worker}


async def test_a_terminated_instance_is_found_by_the_sweep_and_replaced(
    skipping_cluster: Cluster, tiny_model: ModelSource
) -> None:
    cluster = skipping_cluster
    await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.client.get_workflow_handle(f"instance/{before.instance_id}").terminate()
    await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.instance_id != before.instance_id],
        lambda: cluster.instances("tiny"),
    )
    assert before.instance_id not in [claim.instance_id for claim in cluster.claims()]
