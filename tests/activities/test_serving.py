"""serve_main on a real Temporal server, with real processes: what an agent, a workflow and an SRE can do to them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflowservice.v1 import PauseActivityRequest, ResetActivityRequest, UnpauseActivityRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Worker

from activities import heartbeats
from activities.ports import MainServerSpec, ProcessKey
from activities.servers import ServerActivities
from activities.types import MainReady, ProcessEnd
from stoker.domain.naming import worker_queue
from stoker.temporal import workflow_runner
from tests.activities.holding import Holding
from tests.cluster import eventually, eventually_async, temporal
from tests.worker_agent.conftest import FakeEngine, make_server
from worker_agent.supervisor import HostSupervisor

pytestmark = pytest.mark.anyio

Agent = Callable[[], AbstractAsyncContextManager[HostSupervisor]]
Held = WorkflowHandle[Holding, ProcessEnd]


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    """A real Temporal server's, with a control plane."""
    async with (
        temporal() as environment,
        Worker(environment.client, task_queue="control", workflows=[Holding], workflow_runner=workflow_runner()),
    ):
        yield environment.client


@pytest.fixture
def agent(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """Makes an agent of one and the same host: the next one finds what the one before left."""
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.02)
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "ready").touch()

    @asynccontextmanager
    async def made() -> AsyncIterator[HostSupervisor]:
        supervisor = HostSupervisor(
            engine=FakeEngine(),
            state_dir=tmp_path / "state",
            log_dir=tmp_path / "logs",
            host="127.0.0.1",
            arguments=lambda _: ["--stage", str(stage)],
            engine_key=lambda _: "key",
        )
        async with (
            supervisor,
            Worker(
                client,
                task_queue=worker_queue("box"),
                activities=[ServerActivities(supervisor).serve_main],
                max_heartbeat_throttle_interval=timedelta(milliseconds=100),
                graceful_shutdown_timeout=timedelta(0),
            ),
        ):
            yield supervisor

    return made


@pytest.fixture
async def last_agent(agent: Agent) -> AsyncIterator[HostSupervisor]:
    """One that is there all the time, and ends what is left."""
    async with agent() as supervisor:
        yield supervisor
        await supervisor.reap(keep=())


async def hold(client: Client, tmp_path: Path) -> tuple[Held, MainServerSpec]:
    """A workflow that wants a process; whose, nobody knows yet."""
    server = make_server(tmp_path / "model.gguf", ProcessKey(instance_id=f"i-{uuid.uuid4().hex[:8]}", incarnation=1))
    handle = await client.start_workflow(Holding.run, server, id=uuid.uuid4().hex, task_queue="control")
    return handle, server


async def told(handle: Held, times: int) -> list[MainReady]:
    """What the workflow was told, once it was told so often."""

    async def enough() -> list[MainReady] | None:
        found = await handle.query(Holding.told)
        return found if len(found) >= times else None

    found = await eventually_async(enough, f"told {times} times that the process answers")
    assert len(found) == times
    return found


def process_of(handle: Held, client: Client) -> dict[str, Any]:
    """How an SRE names the activity."""
    execution = WorkflowExecution(workflow_id=handle.id)
    return {"namespace": client.namespace, "execution": execution, "type": "serve_main"}


def lives(pid: int) -> bool:
    """Whether the process is there."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def attempt_is_over(handle: Held, state: PendingActivityState.ValueType) -> None:
    """Waits until Temporal shows the activity in that state: no attempt runs."""

    async def over() -> bool:
        description = await handle.describe()
        return [activity.state for activity in description.raw_description.pending_activities] == [state]

    await eventually_async(over, "the attempt ends")


async def test_a_cancelled_workflow_ends_its_process_first(
    client: Client, last_agent: HostSupervisor, tmp_path: Path
) -> None:
    handle, server = await hold(client, tmp_path)
    (ready,) = await told(handle, 1)
    assert last_agent.statuses()[server.key].pid == ready.pid
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert not lives(ready.pid)
    assert server.key not in last_agent.statuses()


async def test_a_terminated_workflow_ends_its_process(
    client: Client, last_agent: HostSupervisor, tmp_path: Path
) -> None:
    handle, server = await hold(client, tmp_path)
    (ready,) = await told(handle, 1)
    await handle.terminate()
    await eventually(lambda: server.key not in last_agent.statuses(), last_agent.statuses)
    assert not lives(ready.pid)


async def test_a_process_that_dies_is_the_result(client: Client, last_agent: HostSupervisor, tmp_path: Path) -> None:
    handle, _ = await hold(client, tmp_path)
    (ready,) = await told(handle, 1)
    psutil.Process(ready.pid).kill()
    async with asyncio.timeout(60):
        end = await handle.result()
    assert (end.exit_code, end.retryable) == (-9, True)


async def test_an_agent_that_stops_lets_go_and_the_next_one_adopts(
    client: Client, agent: Agent, tmp_path: Path
) -> None:
    async with agent():
        handle, _ = await hold(client, tmp_path)
        (first,) = await told(handle, 1)
        assert not first.adopted
    assert lives(first.pid)
    async with agent() as supervisor:
        _, second = await told(handle, 2)
        assert (second.pid, second.port, second.adopted) == (first.pid, first.port, True)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert supervisor.statuses() == {}
    assert not lives(first.pid)


async def test_an_engine_that_went_with_its_agent_is_taken_back_until_it_answers_again(
    client: Client, agent: Agent, tmp_path: Path
) -> None:
    async with agent():
        handle, _ = await hold(client, tmp_path)
        (first,) = await told(handle, 1)
    process = psutil.Process(first.pid)
    process.kill()  # as an agent does that ends its processes when it stops, and forgets them
    process.wait(timeout=30)
    for record in (tmp_path / "state" / "processes").iterdir():
        record.unlink()
    (tmp_path / "stage" / "ready").unlink()
    async with agent() as supervisor:
        _, gone = await told(handle, 2)
        assert (gone.incarnation, gone.port) == (first.incarnation, 0)
        assert gone.pid != first.pid
        (tmp_path / "stage" / "ready").touch()
        *_, again = await told(handle, 3)
        assert (again.pid, again.port > 0, again.adopted) == (gone.pid, True, False)
        await supervisor.reap(keep=())


async def test_an_activity_that_an_sre_pauses_leaves_its_process_alone(
    client: Client, last_agent: HostSupervisor, tmp_path: Path
) -> None:
    handle, _ = await hold(client, tmp_path)
    (first,) = await told(handle, 1)
    which = process_of(handle, client)
    await client.workflow_service.pause_activity(PauseActivityRequest(**which))
    await attempt_is_over(handle, PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED)
    assert lives(first.pid)
    await client.workflow_service.unpause_activity(UnpauseActivityRequest(**which))
    second = (await told(handle, 2))[-1]
    assert second.pid == first.pid


async def test_an_activity_that_an_sre_resets_leaves_its_process_alone(
    client: Client, last_agent: HostSupervisor, tmp_path: Path
) -> None:
    handle, _ = await hold(client, tmp_path)
    (first,) = await told(handle, 1)
    which = process_of(handle, client)
    await client.workflow_service.reset_activity(ResetActivityRequest(**which))
    second = (await told(handle, 2))[-1]
    assert second.pid == first.pid
    assert lives(first.pid)
