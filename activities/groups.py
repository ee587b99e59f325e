"""The other processes of a group over several hosts: RPC servers, and the link to them (hosts' control queues)."""

import asyncio
from contextlib import suppress

from temporalio import activity

from activities.heartbeats import beating
from activities.keeping import signal_owner, stay_with
from activities.ports import HostMesh, LinkSpec, ProcessStatus, ProcessSupervisor, RpcServerSpec
from activities.types import CheckLinksInput, CheckLinksResult, LinkReady, PeerToCheck, ProcessEnd, RpcReady
from stoker.domain.links import WorkerLink
from stoker.domain.naming import LINK_READY_SIGNAL, RPC_READY_SIGNAL
from stoker.domain.workers import Engine

_GATEWAY_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_BAD_WAYS = 3  # so many, and no good one before them: it is this host that reaches nobody


class GroupActivities:
    """Holds the host's supervisor, and the host as a member of groups."""

    def __init__(self, supervisor: ProcessSupervisor, mesh: HostMesh) -> None:
        self._supervisor, self._mesh = supervisor, mesh

    @activity.defn
    async def serve_rpc(self, input: RpcServerSpec) -> ProcessEnd:
        """Starts (or adopts) the RPC server and stays with it until it ends by itself, which is what is returned.

        It has ended, too, when the link from its main server's host was lost: nobody else may use it.
        """

        async def tell_ready(status: ProcessStatus, _: float) -> None:
            with suppress(TimeoutError):  # its gateway takes a moment; where there is none, the check will say so
                async with asyncio.timeout(_GATEWAY_SECONDS):
                    while not self._mesh.gateway.port:  # noqa: ASYNC110 - it is looked after elsewhere, again and again
                        await asyncio.sleep(_LOOK_SECONDS)
            ready = RpcReady(
                incarnation=input.key.incarnation,
                worker=input.worker,
                pid=status.pid,
                port=status.port,
                gateway=self._mesh.gateway,
                engine=self._mesh.engine,
                adopted=status.adopted,
            )
            await signal_owner(RPC_READY_SIGNAL, ready)

        return await stay_with(self._supervisor, input, tell_ready)

    @activity.defn
    async def serve_link(self, input: LinkSpec) -> ProcessEnd:
        """Opens (or adopts) the way to the RPC servers and stays with it until it is lost: how is what is returned."""

        async def tell_ready(status: ProcessStatus, _: float) -> None:
            ready = LinkReady(
                incarnation=input.key.incarnation, pid=status.pid, ports=status.ports, adopted=status.adopted
            )
            await signal_owner(LINK_READY_SIGNAL, ready)

        return await stay_with(self._supervisor, input, tell_ready)

    @activity.defn
    async def check_links(self, input: CheckLinksInput) -> CheckLinksResult:
        """Compares the members' engines with this host's, then measures the way from here to each of their gateways.

        No more ways than show that the group cannot start, and whose fault that is: a dead one takes long.
        """
        own = self._mesh.engine
        unlike = [peer for peer in input.peers if _build(peer.engine) != _build(own)]
        if unlike:
            others = {_build(peer.engine) for peer in input.peers}
            is_odd = len(unlike) == len(input.peers) > 1 == len(others)  # all the others agree
            differs = input.worker if is_odd else unlike[0].gateway.worker
            return CheckLinksResult(differs=differs, cause=_difference(input.worker, own, unlike[0]))
        links: list[WorkerLink] = []
        async with beating(lambda: None):  # one after the other: together they would share what one can carry
            for peer in input.peers:
                links.append(await self._mesh.check(peer.gateway))
                bad = sum(bool(link.problem) for link in links)
                if bad and (len(links) > bad or bad == _BAD_WAYS):
                    break
        return CheckLinksResult(links=tuple(links))


def _build(engine: Engine) -> tuple[str, str, str | None]:
    """What must be the same everywhere. llama.cpp's RPC compares less than what may differ between builds."""
    return engine.kind, engine.version, engine.rpc_protocol


def _difference(worker: str, own: Engine, peer: PeerToCheck) -> str:
    return (
        f"the engines of {worker} and {peer.gateway.worker} differ: {_named(own)} and {_named(peer.engine)}; "
        "a group needs one and the same everywhere (`stoker engine install`)"
    )


def _named(engine: Engine) -> str:
    return f"{engine.kind} {engine.version} (RPC protocol {engine.rpc_protocol or 'none'})"
