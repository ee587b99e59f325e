"""The life of deployments and instances, with real engines: what starts, waits, moves on and ends."""

import os
import signal
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from api.errors import ProblemError
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import deployment_workflow_id, instance_workflow_id
from stoker.domain.units import MIB
from tests.builders import make_spec
from tests.cluster import Cluster, eventually, eventually_async
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio

RUNNING, PENDING, FAILED = InstanceState.RUNNING, InstanceState.PENDING, InstanceState.FAILED


async def test_a_deployment_runs_and_leaves_nothing_behind(cluster: Cluster, tiny_model: ModelSource) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    assert await cluster.apply(make_spec(name="tiny", model=tiny_model)) == 1
    (instance,) = await cluster.instances_in("tiny", [RUNNING])
    assert instance.placement is not None
    assert instance.placement.worker == "w1"
    assert instance.pid in [status.pid for status in supervisor.statuses().values()]
    assert [claim.size for claim in cluster.claims()] == [instance.placement.claimed]

    await cluster.delete("tiny")
    await cluster.gone("tiny")
    assert cluster.claims() == ()
    assert supervisor.statuses() == {}
    for workflow_id in (deployment_workflow_id("tiny"), instance_workflow_id(instance.instance_id)):
        handle = cluster.client.get_workflow_handle(workflow_id)
        await handle.result()
        assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_the_same_apply_again_changes_nothing(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model)
    assert await cluster.apply(spec) == 1
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    assert await cluster.apply(spec) == 1
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert (after.instance_id, after.pid) == (before.instance_id, before.pid)


async def test_what_does_not_fit_waits_with_numbers_and_starts_when_there_is_room(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1", total=700 * MIB))
    await cluster.apply(make_spec(name="first", model=tiny_model))
    await cluster.instances_in("first", [RUNNING])
    await cluster.apply(make_spec(name="second", model=tiny_model))
    (waiting,) = await cluster.instances_in("second", [PENDING])
    assert waiting.unplaceable is not None
    (rejection,) = waiting.unplaceable.rejections
    assert (rejection.worker, rejection.device) == ("w1", "cpu")
    assert rejection.needed == cluster.claims()[0].size
    assert rejection.short == rejection.needed - (700 * MIB - cluster.claims()[0].size)

    why = "StokerDeployment = 'second' AND StokerPhase = 'pending' AND StokerReason = 'not_enough_memory'"
    await shown_in_temporal(cluster, why, waiting.instance_id)

    await cluster.delete("first")
    (started,) = await cluster.instances_in("second", [RUNNING])
    assert started.instance_id == waiting.instance_id
    assert [claim.instance_id for claim in cluster.claims()] == [started.instance_id]


async def test_a_higher_priority_is_served_first(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1", total=700 * MIB))
    await cluster.apply(make_spec(name="first", model=tiny_model))
    await cluster.instances_in("first", [RUNNING])
    await cluster.apply(make_spec(name="older", model=tiny_model))
    await cluster.instances_in("older", [PENDING])
    await cluster.apply(make_spec(name="urgent", model=tiny_model, priority=10))
    await cluster.instances_in("urgent", [PENDING])
    await cluster.delete("first")
    await cluster.instances_in("urgent", [RUNNING])
    await cluster.instances_in("older", [PENDING])


async def test_a_killed_engine_comes_back_as_the_next_incarnation(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    os.kill(before.pid, signal.SIGKILL)
    (after,) = await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.incarnation == 2],
        lambda: cluster.instances("tiny"),
    )
    assert after.instance_id == before.instance_id
    assert after.pid != before.pid
    assert [(claim.instance_id, claim.incarnation) for claim in cluster.claims()] == [(after.instance_id, 2)]


async def test_scaling_up_and_down(cluster: Cluster, tiny_model: ModelSource) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model)
    await cluster.apply(spec)
    (first,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.apply(spec.model_copy(update={"replicas": 3}))
    three = await cluster.instances_in("tiny", [RUNNING] * 3)
    assert first.pid in [instance.pid for instance in three]
    await cluster.apply(spec)
    (last,) = await cluster.instances_in("tiny", [RUNNING])
    assert last.instance_id == first.instance_id, "the youngest go first"
    await eventually(lambda: len(cluster.claims()) == 1, cluster.claims)
    assert len(supervisor.statuses()) == 1


async def test_a_changed_spec_rolls_without_ever_running_less_than_wanted(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model, replicas=2)
    await cluster.apply(spec)
    old = await cluster.instances_in("tiny", [RUNNING] * 2)
    fewest = 2

    def rolled() -> bool:
        nonlocal fewest
        now = cluster.instances("tiny")
        fewest = min(fewest, sum(instance.state is RUNNING for instance in now))
        return [(i.state, i.generation) for i in now] == [(RUNNING, 2)] * 2

    assert await cluster.apply(spec.model_copy(update={"options": EngineOptions(slots=2)})) == 2
    await eventually(rolled, lambda: cluster.instances("tiny"))
    assert fewest == 2
    new = cluster.instances("tiny")
    assert {i.instance_id for i in new}.isdisjoint(i.instance_id for i in old)
    assert {i.placement.estimate.slots for i in new if i.placement} == {2}


async def test_a_roll_without_room_for_the_surge_makes_room(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1", total=700 * MIB))
    spec = make_spec(name="tiny", model=tiny_model)
    await cluster.apply(spec)
    await cluster.instances_in("tiny", [RUNNING], generation=1)
    await cluster.apply(spec.model_copy(update={"options": EngineOptions(slots=2)}))
    await cluster.instances_in("tiny", [RUNNING], generation=2)


async def test_an_engine_that_cannot_load_its_file_fails_and_does_not_try_for_ever(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    good = Path(tiny_model.path).read_bytes()
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=0))
    Path(tiny_model.path).write_bytes(good[: len(good) // 2])
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=1))
    (failed,) = await cluster.instances_in("tiny", [FAILED])
    assert failed.incarnation == 1
    assert "not within the file bounds" in failed.message
    await eventually(lambda: cluster.claims() == (), cluster.claims)
    Path(tiny_model.path).write_bytes(good)
    await cluster.apply(make_spec(name="tiny", model=tiny_model, options=EngineOptions(slots=2)))
    await cluster.instances_in("tiny", [RUNNING], generation=3)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"not a model", "not_gguf", "GGUF"),
        (None, "file_not_found", "no such file"),
    ],
)
async def test_a_refused_model_leaves_nothing(
    cluster: Cluster, tmp_path: Path, content: bytes | None, code: str, words: str
) -> None:
    await cluster.add_host(cpu_host("w1"))
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProblemError, match=words) as refused:
        await cluster.apply(make_spec(name="bad", model=ModelSource.parse(f"file:{path}")))
    assert refused.value.code == code
    assert cluster.deployments() == ()
    handle = cluster.client.get_workflow_handle(deployment_workflow_id("bad"))
    await handle.result()
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_a_context_that_the_model_was_not_trained_for_is_refused(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model, options=EngineOptions(context_length=10_000_000))
    with pytest.raises(ProblemError, match="context_length 10000000") as refused:
        await cluster.apply(spec)
    assert refused.value.code == "unsupported_model"
    assert cluster.deployments() == ()


async def test_an_instance_cancelled_in_temporal_is_replaced(cluster: Cluster, tiny_model: ModelSource) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.client.get_workflow_handle(instance_workflow_id(before.instance_id)).cancel()
    await eventually(
        lambda: [i for i in cluster.instances("tiny") if i.state is RUNNING and i.instance_id != before.instance_id],
        lambda: cluster.instances("tiny"),
    )
    (after,) = await cluster.instances_in("tiny", [RUNNING])
    assert [claim.instance_id for claim in cluster.claims()] == [after.instance_id]
    assert [key.instance_id for key in supervisor.statuses()] == [after.instance_id]


async def test_a_deployment_cancelled_in_temporal_deletes_itself(cluster: Cluster, tiny_model: ModelSource) -> None:
    supervisor = await cluster.add_host(cpu_host("w1", total=700 * MIB))
    await cluster.apply(make_spec(name="tiny", model=tiny_model, replicas=2))
    await cluster.instances_in("tiny", [RUNNING, PENDING])
    await cluster.client.get_workflow_handle(deployment_workflow_id("tiny")).cancel()
    await cluster.gone("tiny")
    assert cluster.claims() == ()
    assert supervisor.statuses() == {}


@pytest.mark.parametrize("instance_too", [False, True])
async def test_a_terminated_deployment_goes_on_from_its_rows(
    cluster: Cluster, tiny_model: ModelSource, instance_too: bool
) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    spec = make_spec(name="tiny", model=tiny_model)
    await cluster.apply(spec)
    (before,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.client.get_workflow_handle(deployment_workflow_id("tiny")).terminate()
    if instance_too:
        await cluster.client.get_workflow_handle(instance_workflow_id(before.instance_id)).terminate()
    assert await cluster.apply(spec.model_copy(update={"replicas": 2})) == 2
    wanted = {before.instance_id} if not instance_too else set()
    await eventually(
        lambda: (
            len(supervisor.statuses()) == 2
            and wanted <= {i.instance_id for i in cluster.instances("tiny") if i.state is RUNNING}
        ),
        lambda: cluster.instances("tiny"),
    )
    await eventually(lambda: len(cluster.claims()) == 2, cluster.claims)
    await cluster.client.get_workflow_handle(deployment_workflow_id("tiny")).terminate()
    await cluster.delete("tiny")
    await cluster.gone("tiny")
    assert cluster.claims() == ()
    assert supervisor.statuses() == {}


async def test_a_cancellation_while_it_is_torn_down_leaves_nothing(cluster: Cluster, tiny_model: ModelSource) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (instance,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.delete("tiny")
    await cluster.instances_in("tiny", [InstanceState.STOPPING])
    await cluster.client.get_workflow_handle(instance_workflow_id(instance.instance_id)).cancel()
    await cluster.gone("tiny")
    assert cluster.claims() == ()
    assert supervisor.statuses() == {}


async def test_a_deletion_does_not_wait_for_the_pause_between_incarnations(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    for incarnation in range(1, 6):  # pauses of 1, 2, 4, 8 and 16 seconds
        (instance,) = await eventually(
            lambda number=incarnation: [  # type: ignore[misc]
                i for i in cluster.instances("tiny") if i.state is RUNNING and i.incarnation == number
            ],
            lambda: cluster.instances("tiny"),
        )
        os.kill(instance.pid, signal.SIGKILL)
    await cluster.instances_in("tiny", [InstanceState.BACKOFF])
    await cluster.delete("tiny")
    await cluster.gone("tiny")
    (handle,) = [
        cluster.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for execution in cluster.client.list_workflows(f"WorkflowId = 'instance/{instance.instance_id}'")
        if execution.status is WorkflowExecutionStatus.COMPLETED
    ]
    fired = [event for event in (await handle.fetch_history()).events if event.HasField("timer_fired_event_attributes")]
    assert fired == [], "the pause was cut short, not waited for"


async def test_a_terminated_instance_loses_its_engine_and_the_deployment_can_go(
    cluster: Cluster, tiny_model: ModelSource
) -> None:
    supervisor = await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (instance,) = await cluster.instances_in("tiny", [RUNNING])
    await cluster.client.get_workflow_handle(instance_workflow_id(instance.instance_id)).terminate()
    await eventually(lambda: not supervisor.statuses(), supervisor.statuses)
    await cluster.delete("tiny")
    await cluster.gone("tiny")
    # Nobody saw the engine go on the workflow's behalf: its agent says so with its next report.
    await eventually(lambda: not cluster.claims(), cluster.claims)


async def test_deleting_while_it_starts_and_while_it_waits(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1", total=700 * MIB))
    await cluster.apply(make_spec(name="first", model=tiny_model))
    await cluster.apply(make_spec(name="second", model=tiny_model))
    await eventually(lambda: len(cluster.instances()) == 2, cluster.instances)
    await cluster.delete("second")
    await cluster.delete("first")
    await cluster.gone("first")
    await cluster.gone("second")
    assert cluster.claims() == ()


async def test_what_an_sre_sees(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.apply(make_spec(name="tiny", model=tiny_model))
    (instance,) = await cluster.instances_in("tiny", [RUNNING])
    history = await cluster.client.get_workflow_handle(instance_workflow_id(instance.instance_id)).fetch_history()
    scheduled = [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
    assert scheduled
    assert all(event.user_metadata.HasField("summary") for event in scheduled), "every activity says what it is for"

    running = "StokerDeployment = 'tiny' AND StokerPhase = 'running' AND StokerWorker = 'w1'"
    await shown_in_temporal(cluster, running, instance.instance_id)


async def shown_in_temporal(cluster: Cluster, query: str, instance_id: str) -> None:
    """Waits until a query as an SRE would type it finds exactly that instance."""

    async def found() -> bool:
        ids = [execution.id async for execution in cluster.client.list_workflows(query)]
        return ids == [instance_workflow_id(instance_id)]

    await eventually_async(found, query)
