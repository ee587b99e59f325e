"""RPC servers, links and their checks as activities; what all endless activities do is in test_servers."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import cast

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities import groups
from activities.groups import GroupActivities
from activities.links import LinkActivities
from activities.ports import (
    LinkSpec,
    MeshPeer,
    ProcessKey,
    ProcessPhase,
    ProcessSpec,
    ProcessStartError,
    ProcessStatus,
    ProcessSupervisor,
    RpcServerSpec,
)
from activities.types import (
    CheckLinksInput,
    CheckLinksResult,
    KeepLinksInput,
    LinkReady,
    PeerToCheck,
    ProcessEnd,
    RpcReady,
)
from stoker.domain.base import Value
from stoker.domain.links import WorkerLink
from stoker.domain.naming import LINK_READY_SIGNAL, RPC_READY_SIGNAL
from stoker.domain.workers import Engine, EngineKind
from tests.fakes.api import make_group

pytestmark = pytest.mark.anyio

KEY = ProcessKey(instance_id="llama-0", incarnation=3, role="rpc")
RPC = RpcServerSpec(key=KEY, placement=make_group(), worker="box-2")
PEERS = (MeshPeer(worker="box-2", host="10.0.0.2", port=8411), MeshPeer(worker="box-3", host="10.0.0.3", port=8411))
LINK = LinkSpec(key=KEY.model_copy(update={"role": "link"}), worker="box-1", peers=PEERS)
ENGINE = Engine(kind=EngineKind.NATIVE, version="0.5.0", rpc_protocol="7.0.0")
OTHER, THIRD = (ENGINE.model_copy(update={"version": version}) for version in ("0.6.0", "0.7.0"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STARTING = ProcessStatus(phase=ProcessPhase.STARTING, pid=42)
READY = ProcessStatus(phase=ProcessPhase.READY, pid=42, port=4711, ports=(4711, 4712))
EXITED = ProcessStatus(phase=ProcessPhase.EXITED, pid=42, exit_code=-9, cause="the link was lost", worker="box-1")


class Supervisor:
    """One process that is ready at once, and ends when a test says so."""

    def __init__(self) -> None:
        self.started: list[ProcessSpec] = []
        self.killed: list[ProcessKey] = []
        self.error: ProcessStartError | None = None
        self.over, self.watched = asyncio.Event(), asyncio.Event()

    async def ensure_started(self, spec: ProcessSpec) -> ProcessStatus:
        """As the port says."""
        if self.error is not None:
            raise self.error
        self.started.append(spec)
        return STARTING

    async def watch(self, key: ProcessKey) -> AsyncGenerator[ProcessStatus, None]:
        """As the port says."""
        yield READY
        self.watched.set()
        await self.over.wait()
        yield EXITED

    async def kill(self, key: ProcessKey) -> None:
        """As the port says."""
        self.killed.append(key)


class Mesh:
    """A host whose gateway and ways are those that a test says."""

    def __init__(self) -> None:
        self.engine = ENGINE
        self.gateway = MeshPeer(worker="box-2", host="10.0.0.2", port=8411)
        self.problems: dict[str, str] = {}
        self.checked: list[MeshPeer] = []

    async def check(self, peer: MeshPeer) -> WorkerLink:
        """As the port says."""
        self.checked.append(peer)
        problem = self.problems.get(peer.worker, "")
        return WorkerLink(worker="box-1", peer=peer.worker, problem=problem, checked_at=NOW)


class Owner:
    """The instance's workflow as a client reaches it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Value]] = []
        self.asked = asyncio.Event()

    def get_workflow_handle(self, workflow_id: str, *, run_id: str | None = None) -> "Owner":
        """Only its own."""
        assert (workflow_id, run_id) == ("test", "test-run")
        return self

    async def signal(self, name: str, value: Value) -> None:
        """Is told."""
        self.told.append((name, value))
        self.asked.set()


class Host:
    """The activities of one host, and what came of them."""

    def __init__(self) -> None:
        self.supervisor, self.mesh, self.owner = Supervisor(), Mesh(), Owner()
        self.activities = GroupActivities(cast(ProcessSupervisor, self.supervisor), self.mesh)
        self.environment = ActivityEnvironment(cast(Client, self.owner))

    async def serve(self, spec: RpcServerSpec | LinkSpec) -> ProcessEnd:
        """The activity of that process."""
        end: ProcessEnd
        if isinstance(spec, RpcServerSpec):
            end = await self.environment.run(self.activities.serve_rpc, spec)
        else:
            end = await self.environment.run(self.activities.serve_link, spec)
        return end

    async def told(self, spec: RpcServerSpec | LinkSpec) -> tuple[str, Value]:
        """What the instance is told by a process that is ready and then ends."""
        running = asyncio.create_task(self.serve(spec))
        async with asyncio.timeout(10):
            await self.owner.asked.wait()
        self.supervisor.over.set()
        assert await running == ProcessEnd(exit_code=-9, cause="the link was lost", worker="box-1")
        assert self.supervisor.started == [spec]
        (told,) = self.owner.told
        return told


async def test_an_rpc_server_tells_where_it_is_and_what_it_is() -> None:
    host = Host()
    ready = RpcReady(incarnation=3, worker="box-2", pid=42, port=4711, gateway=host.mesh.gateway, engine=ENGINE)
    assert await host.told(RPC) == (RPC_READY_SIGNAL, ready)


async def test_it_waits_for_its_gateway_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_LOOK_SECONDS", 0.001)
    host = Host()
    there, host.mesh.gateway = host.mesh.gateway, host.mesh.gateway.model_copy(update={"port": 0})
    running = asyncio.create_task(host.told(RPC))
    await host.supervisor.watched.wait()
    assert host.owner.told == []
    host.mesh.gateway = there
    _, ready = await running
    assert cast(RpcReady, ready).gateway == there

    monkeypatch.setattr(groups, "_GATEWAY_SECONDS", 0.01)
    host = Host()
    host.mesh.gateway = there.model_copy(update={"port": 0})
    _, ready = await host.told(RPC)
    assert cast(RpcReady, ready).gateway.port == 0, "the check of the link will say so"


async def test_a_link_tells_its_ports() -> None:
    assert await Host().told(LINK) == (LINK_READY_SIGNAL, LinkReady(incarnation=3, pid=42, ports=(4711, 4712)))


@pytest.mark.parametrize(("spec", "worker"), [(RPC, "box-2"), (LINK, "box-1")])
async def test_what_cannot_be_started_is_its_hosts_fault(spec: RpcServerSpec | LinkSpec, worker: str) -> None:
    host = Host()
    host.supervisor.error = ProcessStartError("no_rpc_server", "there is none", retryable=True)
    end = ProcessEnd(cause="could not be started: there is none", code="no_rpc_server", worker=worker)
    assert await host.serve(spec) == end


@pytest.mark.parametrize("spec", [RPC, LINK])
async def test_it_is_killed_only_when_its_workflow_wants_that(spec: RpcServerSpec | LinkSpec) -> None:
    for details, killed in (
        (ActivityCancellationDetails(cancel_requested=True), [spec.key]),
        (ActivityCancellationDetails(worker_shutdown=True), []),
    ):
        host = Host()
        running = asyncio.create_task(host.serve(spec))
        await host.supervisor.watched.wait()
        host.environment.cancel(details)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert host.supervisor.killed == killed


async def check(host: Host, *engines: Engine) -> CheckLinksResult:
    """Of the ways to peers with these engines."""
    peers = tuple(PeerToCheck(gateway=peer, engine=engine) for peer, engine in zip(PEERS, engines, strict=True))
    asked = CheckLinksInput(worker="box-1", peers=peers)
    result: CheckLinksResult = await ActivityEnvironment().run(host.activities.check_links, asked)
    return result


async def test_each_way_is_checked() -> None:
    host = Host()
    host.mesh.problems["box-3"] = "nobody answers"
    found = await check(host, ENGINE, ENGINE)
    assert [(link.peer, link.problem) for link in found.links] == [("box-2", ""), ("box-3", "nobody answers")]
    assert (found.differs, tuple(host.mesh.checked)) == ("", PEERS)


async def test_no_more_is_measured_than_shows_whose_fault_it_is() -> None:
    names = [f"box-{number}" for number in range(2, 8)]
    asked = CheckLinksInput(
        worker="box-1",
        peers=tuple(
            PeerToCheck(gateway=MeshPeer(worker=name, host="10.0.0.9", port=8411), engine=ENGINE) for name in names
        ),
    )
    for bad, measured in (
        (names, names[:3]),  # nobody is reached
        (names[:2], names[:3]),  # one is
        (names[2:3], names[:3]),
        ([], names),
    ):
        host = Host()
        host.mesh.problems = dict.fromkeys(bad, "nobody answers")
        found = await ActivityEnvironment().run(host.activities.check_links, asked)
        assert [link.peer for link in found.links] == [peer.worker for peer in host.mesh.checked] == measured


@pytest.mark.parametrize(
    ("engines", "differs"),
    [
        ((ENGINE, OTHER), "box-3"),
        ((OTHER, ENGINE), "box-2"),
        ((OTHER, OTHER), "box-1"),  # all the others agree
        ((OTHER, THIRD), "box-2"),
    ],
)
async def test_the_one_whose_engine_is_not_the_others_is_named(engines: tuple[Engine, ...], differs: str) -> None:
    assert (await check(Host(), *engines)).differs == differs


@pytest.mark.parametrize(
    "change", [{"version": "0.6.0"}, {"rpc_protocol": "7.0.1"}, {"rpc_protocol": None}, {"kind": EngineKind.BUNDLED}]
)
async def test_engines_that_differ_are_named_and_nothing_is_measured(change: dict[str, object]) -> None:
    host = Host()
    other = ENGINE.model_copy(update=change)
    found = await check(host, ENGINE, other)
    assert (found.differs, found.links, host.mesh.checked) == ("box-3", (), [])
    assert found.cause.startswith("the engines of box-1 and box-3 differ: native 0.5.0 (RPC protocol 7.0.0) and ")
    assert "`stoker engine install`" in found.cause


async def test_what_was_found_is_kept() -> None:
    kept: list[WorkerLink] = []

    class Known:
        def keep(self, links: tuple[WorkerLink, ...]) -> None:
            kept.extend(links)

    link = WorkerLink(worker="box-1", peer="box-2", checked_at=NOW)
    await ActivityEnvironment().run(LinkActivities(Known()).keep_links, KeepLinksInput(links=(link,)))  # type: ignore[arg-type]
    assert kept == [link]
