"""A cluster in one process for tests: real Temporal, real database, real engines; only the HTTP doors are left out."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from activities.ports import ProcessPhase
from api import deployment_calls
from entrypoints.clock import utc_now
from entrypoints.control_plane import control_worker
from entrypoints.host_workers import host_workers
from entrypoints.temporal_server import dynamic_config_arguments, temporal_program
from stoker.domain.claims import Claim
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.naming import SEARCH_ATTRIBUTES
from stoker.domain.reports import REPORT_EVERY_SECONDS, HeldIncarnation, WorkerReport
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.domain.workers import Worker
from stoker.hub import HuggingFaceHub
from stoker.secrets import engine_key
from stoker.storage.claims import ClaimLedger
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.held import stands
from stoker.storage.instances import Instances
from stoker.storage.migrate import migrate
from stoker.storage.workers import Workers
from stoker.temporal import TemporalInstanceCalls
from worker_agent.downloads import HubDownloads
from worker_agent.engines import BundledEngine
from worker_agent.model_store import HostModelStore
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor
from workflows.types import DeploymentState

T = TypeVar("T")

WAIT_SECONDS = 60.0
ENGINE_SECRET = "engine-secret-of-the-tests"


@asynccontextmanager
async def temporal(*, time_skipping: bool = False) -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal server of its own, in memory."""
    extra = [*dynamic_config_arguments(), "--log-level", "error"]
    extra += [part for name in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{name}=Keyword")]
    if time_skipping:
        extra += ["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"]
    start = WorkflowEnvironment.start_time_skipping_v2 if time_skipping else WorkflowEnvironment.start_local
    environment = await start(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=temporal_program(),
        dev_server_extra_args=extra,
    )
    try:
        yield environment
    finally:
        await environment.shutdown()
        await asyncio.sleep(
            0.1
        )  # lets the SDK's threads end: without it the interpreter may crash at exit (sdk-python #300)


class Cluster:
    """Control plane and hosts on one database and one Temporal."""

    def __init__(self, client: Client, folder: Path, *, hub: str = "") -> None:
        """`hub`: the endpoint of a model hub, for `hf:` sources."""
        self.client, self.folder, self._hub = client, folder, hub
        self.database = Database(f"sqlite:///{folder / 'stoker.db'}")
        self.ledger = ClaimLedger(self.database, utc_now)
        self._stack = AsyncExitStack()
        self._agents: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> "Cluster":
        migrate(self.database)
        # CI can force a replay at every step: the cheapest hunt for what is not deterministic.
        cached = int(os.environ.get("TEST_CACHED_WORKFLOWS", "100"))
        hub = HuggingFaceHub(endpoint=self._hub or None)
        worker = control_worker(self.client, self.database, hub, max_cached_workflows=cached)
        await self._stack.enter_async_context(worker)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for name in tuple(self._agents):
            await self.stop_agent(name)
        await self._stack.aclose()
        with self.database.read() as session:
            hosts = [status.worker.name for status in Workers(session, utc_now()).all()]
        for name in hosts:  # also those that ran without an agent at the end
            async with self._supervisor(name) as supervisor:
                await supervisor.reap(keep=())
        self.database.close()

    async def add_host(self, worker: Worker) -> HostSupervisor:
        """Joins a host and lets it take work."""
        with self.database.write() as session:
            Workers(session, utc_now()).join(worker, credential_hash="", engine_secret=ENGINE_SECRET)
        return await self.start_agent(worker)

    async def start_agent(self, worker: Worker) -> HostSupervisor:
        """A host's agent: adopts what an earlier one left running, takes work, reports."""
        agent = self._agents[worker.name] = AsyncExitStack()
        supervisor = await agent.enter_async_context(self._supervisor(worker.name))
        environment = {"HF_ENDPOINT": self._hub} if self._hub else {}
        downloads = HubDownloads(
            self.folder / "hub",
            environment=environment,
            live=lambda: {key.instance_id for key in supervisor.statuses()},
        )
        store = HostModelStore([self.folder], downloads)
        for worker_of_queue in host_workers(self.client, worker.name, supervisor, store, ProgressBoard()):
            await agent.enter_async_context(worker_of_queue)
        reporting = asyncio.create_task(self._report(worker, supervisor))
        agent.callback(reporting.cancel)
        return supervisor

    async def stop_agent(self, name: str) -> None:
        """The host's agent goes; what it started goes on."""
        await self._agents.pop(name).aclose()

    async def _report(self, worker: Worker, supervisor: HostSupervisor) -> None:
        """As the agent and the API do it together."""
        answered: int | None = None
        while True:
            await asyncio.sleep(REPORT_EVERY_SECONDS)
            alive = [key for key, status in supervisor.statuses().items() if status.phase is not ProcessPhase.EXITED]
            running = {HeldIncarnation(instance_id=key.instance_id, incarnation=key.incarnation) for key in alive}
            report = WorkerReport(worker=worker, running=tuple(running), answered=answered)
            with self.database.write() as session:
                Workers(session, utc_now()).report(worker)
                known = stands(session, report)
            if known.confirms is not None:
                await TemporalInstanceCalls(self.client).wake(
                    self.ledger.confirm_ended(worker.name, known.confirms, known.version)
                )
            answered = known.version
            held = {(one.instance_id, one.incarnation) for one in known.held}
            await supervisor.reap([key for key in alive if (key.instance_id, key.incarnation) in held], among=alive)

    def _supervisor(self, worker: str) -> HostSupervisor:
        return HostSupervisor(
            engine=BundledEngine(),
            state_dir=self.folder / worker,
            log_dir=self.folder / worker / "logs",
            host="127.0.0.1",
            arguments=lambda server: main_server_arguments(
                server.spec,
                server.placement,
                model_path=server.model_path,
                alias=server.deployment,
                pooling=server.pooling,
            ),
            engine_key=lambda key: engine_key(ENGINE_SECRET, key.instance_id, key.incarnation),
        )

    async def apply(self, spec: DeploymentSpec) -> int:
        """Applies as the API does; the generation."""
        state = self._remembered(spec.name)
        result = await deployment_calls.apply(self.client, spec, remembered=state, update_id=uuid.uuid4().hex)
        return result.generation

    async def delete(self, name: str) -> None:
        """Deletes as the API does."""
        state = self._remembered(name)
        assert state is not None
        await deployment_calls.delete(self.client, name, remembered=state)

    def _remembered(self, name: str) -> DeploymentState | None:
        rows = [row for row in self.deployments() if row.spec.name == name]
        return deployment_calls.remembered(rows[0] if rows else None, self.instances(name))

    def deployments(self) -> tuple[DeploymentStatus, ...]:
        """The rows."""
        with self.database.read() as session:
            return Deployments(session, utc_now()).all()

    def instances(self, deployment: str | None = None) -> tuple[InstanceStatus, ...]:
        """The rows."""
        with self.database.read() as session:
            return Instances(session, utc_now()).all(deployment=deployment)

    def claims(self) -> tuple[Claim, ...]:
        """All claims on all workers."""
        with self.database.read() as session:
            return tuple(claim for status in Workers(session, utc_now()).all() for claim in status.claims)

    async def instances_in(
        self, deployment: str, states: Sequence[InstanceState], *, generation: int | None = None
    ) -> tuple[InstanceStatus, ...]:
        """Waits until the deployment has exactly these states, in any order; returns the instances."""

        def found() -> tuple[InstanceStatus, ...] | None:
            now = self.instances(deployment)
            right = sorted(i.state for i in now) == sorted(states)
            if generation is not None:
                right = right and all(i.generation == generation for i in now)
            return now if right else None

        return await eventually(found, lambda: f"{deployment}: {self.instances(deployment)}")

    async def gone(self, deployment: str) -> None:
        """Waits until nothing of the deployment is left."""
        await eventually(
            lambda: not self.instances(deployment) and deployment not in [d.spec.name for d in self.deployments()],
            lambda: f"{deployment} is still there: {self.instances(deployment)}",
        )


async def eventually(
    look: Callable[[], T | None], describe: Callable[[], object], *, seconds: float = WAIT_SECONDS
) -> T:
    """What `look` returns as soon as it is true. Fails at the deadline with what `describe` says."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := look()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {seconds} s: {describe()}")
        await asyncio.sleep(0.02)
    return found


async def eventually_async(look: Callable[[], Awaitable[T | None]], what: str, *, seconds: float = WAIT_SECONDS) -> T:
    """Like `eventually`, for a look that must be awaited."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (found := await look()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)
    return found
