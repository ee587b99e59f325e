"""What happens while an agent or a whole host is away: engines go on, agents adopt, and a lost host is replaced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from activities.ports import ProcessKey
from activities.types import MainReady
from entrypoints.absence import keep_watch
from entrypoints.clock import utc_now
from stoker.domain.absence import LEAST_GRACE_SECONDS, Absence
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import READY_SIGNAL, instance_workflow_id
from stoker.domain.statuses import InstanceStatus
from stoker.domain.units import MIB
from stoker.storage.absence import AbsenceWatch
from stoker.storage.held import held_on
from stoker.storage.workers import Workers
from stoker.temporal import TemporalInstanceCalls
from tests.builders import make_spec
from tests.cluster import Cluster, eventually, eventually_async, temporal
from tests.workflows.conftest import cpu_host, join_hosts, run_one, worker_of

pytestmark = pytest.mark.anyio

RUNNING = InstanceState.RUNNING


@pytest.fixture
async def skipping_cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose Temporal does not wait for time-outs: it skips to them."""
    async with temporal(time_skipping=True) as environment, Cluster(environment.client, tmp_path) as running:
        yield running


async def test_an_agent_that_comes_back_adopts_the_engine(cluster: Cluster, tiny_model: ModelSource) -> None:
    hosts = await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
    await cluster.stop_agent("w1")
    assert psutil.pid_exists(before.pid)
    supervisor = await cluster.start_agent(hosts["w1"])
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
    await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
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
    hosts = await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
    await cluster.stop_agent("w1")
    psutil.Process(before.pid).kill()
    await cluster.start_agent(hosts["w1"])
    await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.incarnation == 2],
        lambda: cluster.instances("tiny"),
    )
    assert [claim.incarnation for claim in cluster.claims()] == [2]


@asynccontextmanager
async def watched(cluster: Cluster) -> AsyncIterator[AbsenceWatch]:
    """As a control plane does it, until left; with less patience."""
    watch = AbsenceWatch(cluster.database, LEAST_GRACE_SECONDS)
    task = asyncio.create_task(keep_watch(watch, TemporalInstanceCalls(cluster.client), every=0.2))
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def moved(cluster: Cluster, before: InstanceStatus) -> str:
    """Waits until the instance runs as a later incarnation; its worker."""
    (after,) = await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.incarnation > before.incarnation],
        lambda: cluster.instances("tiny"),
    )
    assert after.instance_id == before.instance_id
    return worker_of(after)


def held(cluster: Cluster) -> list[tuple[str, int]]:
    """Worker and incarnation of every claim that is not ending."""
    with cluster.database.read() as session:
        names = [status.worker.name for status in Workers(session, utc_now()).all()]
        return [(name, one.incarnation) for name in names for one in held_on(session, name)]


async def test_a_host_that_is_lost_is_replaced_and_ends_what_it_has_when_it_comes_back(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    before = await run_one(cluster, tiny_model)
    lost = worker_of(before)
    async with watched(cluster):
        await cluster.stop_agent(lost)
        now = await moved(cluster, before)
        assert now != lost
        assert held(cluster) == [(now, 2)]
        assert sorted(claim.worker for claim in cluster.claims()) == ["w1", "w2"], "its process may still be there"
        assert psutil.pid_exists(before.pid), "and it is: only its agent died"
        await cluster.start_agent(hosts[lost])
        await eventually(
            lambda: [claim.worker for claim in cluster.claims()] == [now], lambda: f"claims: {cluster.claims()}"
        )
        assert not psutil.pid_exists(before.pid)
    (after,) = cluster.instances("tiny")
    assert (after.state, after.incarnation, worker_of(after)) == (RUNNING, 2, now)


async def test_a_start_on_a_host_that_died_just_before_goes_elsewhere(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1", "w2")
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=0))  # both have the file
    await cluster.stop_agent("w1")

    async def report() -> None:
        """Nobody takes its work, and nobody knows it yet."""
        while True:
            with cluster.database.write() as session:
                Workers(session, utc_now()).report(cpu_host("w1"))
            await asyncio.sleep(1)

    reporting = asyncio.create_task(report())
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=2))
    await cluster.instances_in("tiny", [RUNNING, InstanceState.STARTING])
    assert sorted(held(cluster)) == [("w1", 1), ("w2", 1)]
    reporting.cancel()
    async with watched(cluster):
        await cluster.instances_in("tiny", [RUNNING, RUNNING])
    assert sorted(held(cluster)) == [("w2", 1), ("w2", 2)]


async def test_deleting_what_is_on_a_lost_host_leaves_nothing_but_its_bytes_until_it_is_back(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    before = await run_one(cluster, tiny_model)
    lost = worker_of(before)
    async with watched(cluster):
        await cluster.stop_agent(lost)
        await cluster.delete("tiny")
        await cluster.gone("tiny")
        assert [claim.worker for claim in cluster.claims()] == [lost]
        assert psutil.pid_exists(before.pid)
        await cluster.start_agent(hosts[lost])
        await eventually(lambda: not cluster.claims(), lambda: f"claims: {cluster.claims()}")
        assert not psutil.pid_exists(before.pid)


async def test_when_most_are_silent_nothing_is_moved_and_afterwards_all_is_as_before(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    hosts = await join_hosts(cluster, "w1", "w2", "w3")
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=3))
    before = await cluster.instances_in("tiny", [RUNNING] * 3)
    view = AbsenceWatch(cluster.database, LEAST_GRACE_SECONDS)  # as the API has its own
    async with watched(cluster):
        for name in ("w1", "w2"):
            await cluster.stop_agent(name)
        alarm = await eventually(lambda: view.look().alarm, lambda: view.look())
        assert "2 of 3 workers are silent at once (w1, w2)" in alarm
        assert view.look().held_back == ("w1", "w2")
        for name in ("w1", "w2"):
            await cluster.start_agent(hosts[name])
        await eventually(lambda: view.look() == Absence(), lambda: view.look())
        assert [(i.instance_id, i.pid, i.incarnation) for i in cluster.instances("tiny")] == [
            (i.instance_id, i.pid, 1) for i in before
        ]
        assert len(cluster.claims()) == 3


async def test_a_terminated_instance_is_found_by_the_sweep_and_replaced(
    skipping_cluster: Cluster, tiny_model: ModelSource
) -> None:
    cluster = skipping_cluster
    await join_hosts(cluster, "w1")
    before = await run_one(cluster, tiny_model)
    await cluster.client.get_workflow_handle(f"instance/{before.instance_id}").terminate()
    await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.instance_id != before.instance_id],
        lambda: cluster.instances("tiny"),
    )
    await eventually(  # once its agent has said that it is gone
        lambda: before.instance_id not in [claim.instance_id for claim in cluster.claims()],
        lambda: f"claims: {cluster.claims()}",
    )
    assert not psutil.pid_exists(before.pid)


async def test_one_that_waits_looks_by_itself_though_nobody_tells_it(
    skipping_cluster: Cluster, tiny_model: ModelSource
) -> None:
    cluster = skipping_cluster
    await cluster.add_host(cpu_host("w1", total=1 * MIB))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (waiting,) = await cluster.instances_in("tiny", [InstanceState.PENDING])
    handle = cluster.client.get_workflow_handle(instance_workflow_id(waiting.instance_id))

    async def waits() -> list[float]:
        """Seconds of the timers that it has waited for."""
        events = [event async for event in handle.fetch_history_events()]
        started = {
            event.event_id: event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta().total_seconds()
            for event in events
            if event.HasField("timer_started_event_attributes")
        }
        fired = [event for event in events if event.HasField("timer_fired_event_attributes")]
        return [started[event.timer_fired_event_attributes.started_event_id] for event in fired]

    async def enough() -> list[float] | None:
        found = await waits()
        return found if len(found) >= 3 else None

    first, *others = await eventually_async(enough, "three looks")
    assert 630 <= first <= 1.25 * 630, "when it has begun to reserve devices"
    assert all(6 * 3600 <= other <= 1.25 * 6 * 3600 for other in others)
    await cluster.stop_agent("w1")
    await cluster.add_host(cpu_host("w1"))  # the cluster tells nobody that there is more room, unlike the API
    await cluster.instances_in("tiny", [RUNNING])
