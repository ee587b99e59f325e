"""Hosts whose processes are only told of, and a control plane that places as a test says: groups without engines."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.heartbeats import beating
from activities.ports import LinkSpec, MainServerSpec, MeshPeer, ProcessKey, RpcServerSpec
from activities.types import (
    CheckLinksInput,
    CheckLinksResult,
    DrainInput,
    DrainResult,
    KeepLinksInput,
    LinkReady,
    MainReady,
    PlaceResult,
    ProcessEnd,
    ReleaseInput,
    ReleaseResult,
    RpcReady,
)
from stoker.domain.base import Value
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.links import WorkerLink
from stoker.domain.models import ModelSource
from stoker.domain.naming import CONTROL_QUEUE, LINK_READY_SIGNAL, READY_SIGNAL, RPC_READY_SIGNAL, worker_queue
from stoker.domain.placement.types import DeviceShare, Placement, PlacementRequest, Tier
from stoker.domain.statuses import InstanceProjection
from stoker.domain.workers import DeviceKind, Engine, EngineKind
from stoker.temporal import workflow_runner
from tests.builders import make_files, make_profile, make_spec
from workflows.instance import Instance
from workflows.types import InstanceInput

ENGINE = Engine(kind=EngineKind.NATIVE, version="1.2.3", rpc_protocol="7.0.0")


def placed_on(main: str, *peers: str) -> Placement:
    """Ten layers on a GPU of each worker, and the RAM of each."""
    gpus = tuple(
        DeviceShare(
            worker="" if worker == main else worker,
            device="gpu0",
            kind=DeviceKind.CUDA,
            engine_name="CUDA0",
            layers=10,
            claim=1,
        )
        for worker in (main, *peers)
    )
    estimate = MemoryEstimate(context_length=2048, slots=1)
    return Placement(worker=main, shares=gpus, estimate=estimate, tier=Tier.SEVERAL_WORKERS, reason="it fits there")


class GroupHosts:
    """What happens on the hosts is in `events`, in order; what a test sets here decides what happens."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.events: list[str] = []
        self.placements: list[Placement] = [placed_on("w1", "w2", "w3")]  # of each incarnation; the last one stays
        self.requests: list[PlacementRequest] = []
        self.released: list[ReleaseInput] = []
        self.rows: list[InstanceProjection] = []
        self.links: list[WorkerLink] = []
        self.engines: defaultdict[str, Engine] = defaultdict(lambda: ENGINE)
        self.problems: dict[str, str] = {}  # of the way to a peer
        self.refuses: dict[str, ProcessEnd] = {}  # "rpc w2": how its start fails
        self.deaf: set[str] = set()  # processes that outlive their cancellation
        self.never_ready: set[str] = set()
        self.mains: list[MainServerSpec] = []
        self._gates: dict[str, asyncio.Event] = {}
        self._processes: dict[str, asyncio.Future[ProcessEnd]] = {}
        self._pids = iter(range(1000, 10_000))
        self._stack = AsyncExitStack()
        self._agents: dict[str, AsyncExitStack] = {}

    # --- for tests ---------------------------------------------------------------------------------------------------

    async def start(self, **spec: object) -> WorkflowHandle[Instance, None]:
        """An instance's workflow."""
        given = InstanceInput(
            instance_id="big-0", generation=1, spec=make_spec(name="big", **spec), profile=make_profile(),
            files=make_files(ModelSource.parse("file:/models/big.gguf")),
        )  # fmt: skip
        return await self.client.start_workflow(
            Instance.run, given, id=f"instance/{uuid4().hex}", task_queue=CONTROL_QUEUE
        )

    def gate(self, what: str) -> asyncio.Event:
        """What passes only once it is set: "check" of the links, or the row's write of a state ("backoff")."""
        return self._gates.setdefault(what, asyncio.Event())

    def end(self, process: str, end: ProcessEnd) -> None:
        """The process ("rpc w2") ends by itself."""
        self.events.append(f"{process} ended")
        self._processes[process].set_result(end)

    async def agent(self, name: str) -> None:
        """A host's agent begins to take work."""
        self._agents[name] = stack = AsyncExitStack()
        await stack.enter_async_context(
            Worker(
                self.client,
                task_queue=worker_queue(name),
                activities=[self.serve_rpc, self.serve_link, self.check_links, self.serve_main, self.drain_main],
                max_heartbeat_throttle_interval=timedelta(milliseconds=100),
                graceful_shutdown_timeout=timedelta(0),
            )
        )

    async def stop_agent(self, name: str) -> None:
        """It takes no more, and lets go of what it has."""
        await self._agents.pop(name).aclose()

    @asynccontextmanager
    async def running(self, *names: str, sandboxed: bool = True) -> AsyncIterator["GroupHosts"]:
        """With a control plane and these hosts. Where it is not `sandboxed`, it sees what a test patches."""
        control = Worker(
            self.client,
            task_queue=CONTROL_QUEUE,
            workflows=[Instance],
            activities=[self.place, self.release, self.project_instance, self.remove_instance, self.keep_links],
            workflow_runner=workflow_runner() if sandboxed else UnsandboxedWorkflowRunner(),
        )
        try:
            async with control:
                for name in names:
                    await self.agent(name)
                yield self
        finally:
            for name in tuple(self._agents):
                await self.stop_agent(name)

    # --- on the hosts ------------------------------------------------------------------------------------------------

    @activity.defn
    async def serve_rpc(self, input: RpcServerSpec) -> ProcessEnd:
        """As the real one, told of only."""
        gateway = MeshPeer(worker=input.worker, host="127.0.0.1", port=8411)

        async def ready(pid: int) -> None:
            told = RpcReady(
                incarnation=input.key.incarnation, worker=input.worker, pid=pid, port=5000 + pid, gateway=gateway,
                engine=self.engines[input.worker],
            )  # fmt: skip
            await self._tell(RPC_READY_SIGNAL, told)

        return await self._serve(f"rpc {input.worker}", ready)

    @activity.defn
    async def serve_link(self, input: LinkSpec) -> ProcessEnd:
        """As the real one, told of only."""
        ports = tuple(6000 + number for number, _ in enumerate(input.peers))

        async def ready(pid: int) -> None:
            await self._tell(LINK_READY_SIGNAL, LinkReady(incarnation=input.key.incarnation, pid=pid, ports=ports))

        return await self._serve(f"link {input.worker}", ready)

    @activity.defn
    async def serve_main(self, input: MainServerSpec) -> ProcessEnd:
        """As the real one, told of only."""
        self.mains.append(input)

        async def ready(pid: int) -> None:
            await self._tell(READY_SIGNAL, MainReady(incarnation=input.key.incarnation, pid=pid, port=7000 + pid))

        return await self._serve(f"main {input.placement.worker}", ready)

    @activity.defn
    async def check_links(self, input: CheckLinksInput) -> CheckLinksResult:
        """What the test says of each way; engines that differ from the host's are found."""
        for peer in input.peers:
            if peer.engine != self.engines[input.worker]:
                return CheckLinksResult(differs=peer.gateway.worker, cause="the engines differ")
        if (gate := self._gates.get("check")) is not None:
            self.events.append("links asked for")
            await gate.wait()
        self.events.append("links checked")
        return CheckLinksResult(
            links=tuple(
                WorkerLink(
                    worker=input.worker,
                    peer=peer.gateway.worker,
                    round_trip_seconds=0.001,
                    bytes_per_second=10**8,
                    problem=self.problems.get(peer.gateway.worker, ""),
                    checked_at=datetime.now(UTC),
                )
                for peer in input.peers
            )
        )

    @activity.defn
    async def drain_main(self, input: DrainInput) -> DrainResult:
        """Idle at once."""
        self.events.append("drained")
        return DrainResult(idle=True)

    async def _serve(self, process: str, ready: Callable[[int], object]) -> ProcessEnd:
        if process in self.refuses:
            self.events.append(f"{process} refused")
            return self.refuses[process]
        known = self._processes.get(process)
        if known is None or known.done():
            self.events.append(f"{process} up")
            known = self._processes[process] = asyncio.get_running_loop().create_future()
        async with beating(lambda: None):
            if process not in self.never_ready:
                await ready(next(self._pids))  # type: ignore[misc]
            try:
                return await asyncio.shield(known)
            except asyncio.CancelledError:
                while process in self.deaf and not activity.is_worker_shutdown():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                if not activity.is_worker_shutdown():
                    self.events.append(f"{process} down")
                    known.cancel()
                raise

    async def _tell(self, name: str, value: Value) -> None:
        info = activity.info()
        assert info.workflow_id is not None
        await activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id).signal(name, value)

    # --- on the control plane ----------------------------------------------------------------------------------------

    @activity.defn
    async def place(self, input: PlacementRequest) -> PlaceResult:
        """The next placement."""
        self.requests.append(input)
        return PlaceResult(placement=self.placements.pop(0) if len(self.placements) > 1 else self.placements[0])

    @activity.defn
    async def release(self, input: ReleaseInput) -> ReleaseResult:
        """Is noted."""
        self.events.append("released")
        self.released.append(input)
        return ReleaseResult(woken=())

    @activity.defn
    async def project_instance(self, input: InstanceProjection) -> None:
        """Is noted."""
        if (gate := self._gates.get(input.state)) is not None:
            self.events.append(f"{input.state} waits")
            await gate.wait()
        self.rows.append(input)

    @activity.defn
    async def remove_instance(self, input: object) -> None:
        """Is noted."""
        self.events.append("row removed")

    @activity.defn
    async def keep_links(self, input: KeepLinksInput) -> None:
        """Are noted."""
        self.links.extend(input.links)


def key_of(role: str, incarnation: int = 1) -> ProcessKey:
    """Of the instance that `start` makes."""
    return ProcessKey(instance_id="big-0", incarnation=incarnation, role=role)
