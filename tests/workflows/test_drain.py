"""Draining a worker: what is on it moves, one by one, the new one first where there is room; or it is called off."""

import os
import signal
from collections.abc import Sequence

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import CONTROL_QUEUE, deployment_workflow_id, drain_workflow_id
from stoker.domain.statuses import InstanceStatus
from stoker.domain.units import MIB
from stoker.domain.workers import WorkerState
from stoker.storage.workers import Workers
from tests.builders import make_spec
from tests.cluster import Cluster, eventually, eventually_async
from tests.workflows.conftest import cpu_host, join_hosts, worker_of
from workflows.drain import Drain
from workflows.types import DrainState, DrainWorkerInput, DrainWorkerResult, MovedInstance, StayingInstance

pytestmark = pytest.mark.anyio

RUNNING, PENDING, STOPPING = InstanceState.RUNNING, InstanceState.PENDING, InstanceState.STOPPING
ROOM_FOR_ONE = 700 * MIB
Handle = WorkflowHandle[Drain, DrainWorkerResult]


async def drain(
    cluster: Cluster, worker: str, *, move_seconds: float = 1800.0, state: DrainState | None = None
) -> Handle:
    """Drains as the API does."""
    assert cluster.ledger.drain(worker)
    return await cluster.client.start_workflow(
        Drain.run,
        DrainWorkerInput(worker=worker, move_seconds=move_seconds, state=state or DrainState()),
        id=drain_workflow_id(worker),
        task_queue=CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        start_signal="begin",
    )


async def drain_to_nobody(cluster: Cluster) -> Handle:
    """Drains w1 until the successor on w2 has its place, and does not start: nobody takes the work of w2."""
    await cluster.stop_agent("w2")
    handle = await drain(cluster, "w1")
    await cluster.instances_in("tiny", [RUNNING, InstanceState.STARTING])
    return handle


async def details(handle: Handle) -> str:
    """What an SRE reads of it."""
    metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def deploy_on_w1(cluster: Cluster, model: ModelSource, *names: str, replicas: int = 1) -> list[InstanceStatus]:
    """The instances of the deployments, all on w1 although w2 has the file too."""
    assert cluster.ledger.cordon("w2")
    found: list[InstanceStatus] = []
    for name in names:
        await cluster.apply(make_spec(name=name, model=model, replicas=replicas))
        found += await cluster.instances_in(name, [RUNNING] * replicas)
    assert {worker_of(instance) for instance in found} == {"w1"}
    assert cluster.ledger.uncordon("w2") == ()
    return found


def worker_state(cluster: Cluster, name: str) -> WorkerState:
    """By its row."""
    with cluster.database.read() as session:
        status = Workers(session, utc_now()).get(name)
    assert status is not None
    return status.worker.state


class Watch:
    """Looks at all instances again and again: how few of each deployment ran, and how many stopped at once."""

    def __init__(self, cluster: Cluster, deployments: Sequence[str]) -> None:
        self._cluster = cluster
        self.fewest = dict.fromkeys(deployments, len(cluster.instances()))
        self.stopping_at_once = 0

    async def until_empty(self, worker: str) -> None:
        """Until nothing is claimed on the worker."""
        await eventually(lambda: self._is_empty(worker), self._cluster.instances)

    def _is_empty(self, worker: str) -> bool:
        now = self._cluster.instances()
        for name in self.fewest:
            running = sum(one.state is RUNNING for one in now if one.deployment == name)
            self.fewest[name] = min(self.fewest[name], running)
        self.stopping_at_once = max(self.stopping_at_once, sum(one.state is STOPPING for one in now))
        return worker not in {claim.worker for claim in self._cluster.claims()}


async def test_two_deployments_move_one_by_one_and_the_new_one_runs_before_the_old_one_stops(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1", "w2")
    before = await deploy_on_w1(cluster, tiny_model, "one", "two")
    watch = Watch(cluster, ("one", "two"))
    handle = await drain(cluster, "w1")
    await watch.until_empty("w1")
    result = await handle.result()
    assert watch.fewest == {"one": 1, "two": 1}
    assert watch.stopping_at_once == 1
    assert not result.called_off
    after = [*await cluster.instances_in("one", [RUNNING]), *await cluster.instances_in("two", [RUNNING])]
    assert [worker_of(one) for one in after] == ["w2", "w2"]
    moves = {old.instance_id: f"`{new.instance_id}` on w2" for old, new in zip(before, after, strict=True)}
    assert {one.instance_id: one.to for one in result.moved} == moves
    assert "**0 left** on `w1` - nothing is left" in await details(handle)


async def test_two_instances_of_one_deployment_move_one_after_the_other(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1", "w2")
    await deploy_on_w1(cluster, tiny_model, "tiny", replicas=2)
    watch = Watch(cluster, ("tiny",))
    handle = await drain(cluster, "w1")
    await watch.until_empty("w1")
    result = await handle.result()
    assert (watch.fewest, watch.stopping_at_once) == ({"tiny": 2}, 1)
    after = await cluster.instances_in("tiny", [RUNNING] * 2)
    assert [worker_of(one) for one in after] == ["w2", "w2"]
    assert len(result.moved) == 2


async def test_without_room_elsewhere_the_old_one_goes_and_its_successor_waits(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.add_host(cpu_host("w2", total=ROOM_FOR_ONE))
    await deploy_on_w1(cluster, tiny_model, "one", "two")
    handle = await drain(cluster, "w1")
    result = await handle.result()
    assert not result.called_off
    states = sorted(one.state for one in cluster.instances())
    assert states == sorted([RUNNING, PENDING])
    (waiting,) = [one for one in cluster.instances() if one.state is PENDING]
    assert f"`{waiting.instance_id}`, which has no place yet: " in result.moved[1].to
    assert cluster.ledger.uncordon("w1") == (waiting.instance_id,), "its place is there for it again"


async def test_called_off_the_one_that_was_to_leave_stays(cluster: Cluster, tiny_model: ModelSource) -> None:
    await join_hosts(cluster, "w1", "w2")
    (before,) = await deploy_on_w1(cluster, tiny_model, "tiny")
    handle = await drain_to_nobody(cluster)
    assert cluster.ledger.uncordon("w1") == ()
    await handle.signal(Drain.call_off)
    result = await handle.result()
    assert (result.called_off, result.moved) == (True, ())
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert (after.instance_id, after.pid) == (before.instance_id, before.pid)
    assert "**1 left** on `w1` - it was called off" in await details(handle)


async def test_called_off_and_wanted_again_it_goes_on(cluster: Cluster, tiny_model: ModelSource) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    await deploy_on_w1(cluster, tiny_model, "tiny")
    handle = await drain_to_nobody(cluster)
    for _ in range(5):
        cluster.ledger.uncordon("w1")
        await handle.signal(Drain.call_off)
        handle = await drain(cluster, "w1")
    await cluster.start_agent(hosts["w2"])
    assert not (await handle.result()).called_off
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert worker_of(after) == "w2"


async def test_the_row_decides_and_not_the_order_of_the_signals(cluster: Cluster, tiny_model: ModelSource) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    await deploy_on_w1(cluster, tiny_model, "tiny")
    handle = await drain_to_nobody(cluster)
    cluster.ledger.uncordon("w1")  # one administrator
    await drain(cluster, "w1")  # another, between the row and the signal of the first
    await handle.signal(Drain.call_off)
    await cluster.start_agent(hosts["w2"])
    assert not (await handle.result()).called_off
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert worker_of(after) == "w2"
    assert worker_state(cluster, "w1") is WorkerState.DRAINING


async def test_cancelled_in_temporal_it_is_called_off_and_the_worker_stays_cordoned(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1", "w2")
    (before,) = await deploy_on_w1(cluster, tiny_model, "tiny")
    handle = await drain_to_nobody(cluster)
    await handle.cancel()
    assert (await handle.result()).called_off
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert after.instance_id == before.instance_id
    assert worker_state(cluster, "w1") is WorkerState.CORDONED


async def test_terminated_in_temporal_it_leaves_the_row_and_to_drain_again_goes_on(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    await deploy_on_w1(cluster, tiny_model, "tiny")
    handle = await drain_to_nobody(cluster)
    await handle.terminate()
    assert worker_state(cluster, "w1") is WorkerState.DRAINING
    again = await drain(cluster, "w1")
    await cluster.start_agent(hosts["w2"])
    assert not (await again.result()).called_off
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert worker_of(after) == "w2"
    assert cluster.ledger.uncordon("w1") == ()
    assert worker_state(cluster, "w1") is WorkerState.READY


async def test_one_that_takes_too_long_stays_with_the_reason_and_the_next_has_its_turn(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    await deploy_on_w1(cluster, tiny_model, "one", "two")
    await cluster.stop_agent("w2")
    handle = await drain(cluster, "w1", move_seconds=0.5)

    async def both_stay() -> bool:
        return (await details(handle)).count("stays for now: it was not replaced within 0:00:00.500000: ") == 2

    await eventually_async(both_stay, "both had their turn")
    assert [one.state for one in cluster.instances()].count(RUNNING) == 2
    await cluster.start_agent(hosts["w2"])
    result = await handle.result()
    assert {one.deployment for one in result.moved} == {"one", "two"}
    for name in ("one", "two"):
        (after,) = await cluster.instances_in(name, [RUNNING])
        assert worker_of(after) == "w2"


async def test_one_that_no_other_worker_may_take_goes_on_where_it_is(cluster: Cluster, tiny_model: ModelSource) -> None:
    await join_hosts(cluster, "w1", "w2")
    await cluster.apply(make_spec(name="tiny", model=tiny_model, devices=(("w1", "cpu"),)))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    handle = await drain(cluster, "w1", move_seconds=0.5)

    async def stays() -> bool:
        return f"`{before.instance_id}` (running) stays for now: it was not replaced" in await details(handle)

    await eventually_async(stays, "it had its turn")
    (waiting,) = [one for one in await cluster.instances_in("tiny", [RUNNING, PENDING]) if one.state is PENDING]
    assert f": {waiting.instance_id} is pending: {waiting.message}" in await details(handle)
    assert waiting.message
    cluster.ledger.uncordon("w1")
    await handle.signal(Drain.call_off)
    assert (await handle.result()).called_off
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert (after.instance_id, after.pid) == (before.instance_id, before.pid)


async def test_a_deployment_that_does_not_run_is_told_of_and_asked_again(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await join_hosts(cluster, "w1", "w2")
    (before,) = await deploy_on_w1(cluster, tiny_model, "tiny")
    await cluster.client.get_workflow_handle(deployment_workflow_id("tiny")).terminate()
    handle = await drain(cluster, "w1")

    async def stays() -> bool:
        return f"`{before.instance_id}` (running) stays for now: its deployment's workflow does not" in await details(
            handle
        )

    await eventually_async(stays, "it stays")
    await cluster.apply(make_spec(name="tiny", model=tiny_model, priority=1))  # the workflow goes on from the rows
    assert (await drain(cluster, "w1")).id == handle.id
    result = await handle.result()
    assert [one.instance_id for one in result.moved] == [before.instance_id]
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert worker_of(after) == "w2"


async def test_one_that_ends_by_itself_gives_way_at_once(cluster: Cluster, tiny_model: ModelSource) -> None:
    hosts = await join_hosts(cluster, "w1", "w2")
    (before,) = await deploy_on_w1(cluster, tiny_model, "tiny")
    handle = await drain_to_nobody(cluster)
    os.kill(before.pid, signal.SIGKILL)
    result = await handle.result()
    (successor,) = await cluster.instances_in("tiny", [InstanceState.STARTING])
    moved = MovedInstance(instance_id=before.instance_id, deployment="tiny", to=f"`{successor.instance_id}` on w2")
    assert result == DrainWorkerResult(moved=(moved,))
    await cluster.start_agent(hosts["w2"])
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert (after.instance_id, worker_of(after)) == (successor.instance_id, "w2")


async def test_a_worker_whose_agent_is_gone_is_emptied_too(cluster: Cluster, tiny_model: ModelSource) -> None:
    await join_hosts(cluster, "w1", "w2")
    await deploy_on_w1(cluster, tiny_model, "tiny")
    await cluster.stop_agent("w1")
    handle = await drain(cluster, "w1")
    result = await handle.result()
    assert not result.called_off
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert worker_of(after) == "w2"


async def test_nothing_there(cluster: Cluster) -> None:
    await cluster.add_host(cpu_host("w1"))
    handle = await drain(cluster, "w1")
    assert await handle.result() == DrainWorkerResult()


async def test_a_drain_goes_on_from_what_an_earlier_run_left(cluster: Cluster) -> None:
    await cluster.add_host(cpu_host("w1"))
    moved = MovedInstance(instance_id="a-bcdfg", deployment="a", to="`a-hjklm` on w2")
    state = DrainState(
        moved=(moved,), staying=(StayingInstance(instance_id="b-bcdfg", deployment="b", reason="it was slow"),)
    )
    handle = await drain(cluster, "w1", state=state)
    gone = MovedInstance(instance_id="b-bcdfg", deployment="b")
    assert await handle.result() == DrainWorkerResult(moved=(moved, gone))
