"""The main server of an instance on its host: one endless activity is one process (the host's control queue)."""

import structlog
from temporalio import activity

from activities.heartbeats import beating
from activities.keeping import signal_owner, stay_with
from activities.ports import MainServerSpec, ProcessKey, ProcessStatus, ProcessSupervisor
from activities.types import DrainInput, DrainResult, MainReady, ProcessEnd
from stoker.domain.llamacpp import rpc_peers
from stoker.domain.measured_memory import MeasuredMemory, compare_memory, with_workers
from stoker.domain.naming import READY_SIGNAL

log = structlog.get_logger()


class ServerActivities:
    """Holds the host's supervisor."""

    def __init__(self, supervisor: ProcessSupervisor) -> None:
        self._supervisor = supervisor

    @activity.defn
    async def serve_main(self, input: MainServerSpec) -> ProcessEnd:
        """Starts (or adopts) the main server and stays with it until it ends by itself, which is what is returned."""
        incarnation = input.key.incarnation

        async def tell_ready(status: ProcessStatus, load_seconds: float) -> None:
            await self._tell_ready(input, status, load_seconds)

        async def tell_loading(status: ProcessStatus) -> None:
            await signal_owner(READY_SIGNAL, MainReady(incarnation=incarnation, port=0, pid=status.pid))

        return await stay_with(self._supervisor, input, tell_ready, tell_loading)

    async def _tell_ready(self, server: MainServerSpec, status: ProcessStatus, load_seconds: float) -> None:
        """Signals the instance that its main server answers, and what it took."""
        memory: MeasuredMemory | None = None
        try:
            memory = await self._supervisor.measure(server.key)
            if memory is not None:
                memory = with_workers(memory, _endpoints(server))
                _warn_if_exceeded(server, memory)
        except Exception as error:
            # Whatever it is: a server that answers must become ready, though nobody knows what it took. An instance
            # that is never told so holds its claims and serves nobody.
            log.exception("memory_not_measured", instance=server.key.instance_id, error=repr(error))
        await signal_owner(
            READY_SIGNAL,
            MainReady(
                incarnation=server.key.incarnation,
                port=status.port,
                pid=status.pid,
                adopted=status.adopted,
                load_seconds=load_seconds,
                memory=memory,
            ),
        )

    @activity.defn
    async def drain_main(self, input: DrainInput) -> DrainResult:
        """Waits until the process answers no more requests; the caller has withdrawn its route before."""
        key = ProcessKey(instance_id=input.instance_id, incarnation=input.incarnation)
        async with beating(lambda: None):
            idle = await self._supervisor.drain(key, input.settle_seconds, input.timeout_seconds)
        return DrainResult(idle=idle)


def _endpoints(server: MainServerSpec) -> dict[str, str]:
    """Whose RPC server the main server reaches where."""
    return {f"127.0.0.1:{port}": peer for port, peer in zip(server.rpc_ports, rpc_peers(server.placement), strict=True)}


def _warn_if_exceeded(server: MainServerSpec, memory: MeasuredMemory) -> None:
    """Says where the engine took more than it was estimated to: the claims that decide who fits are then too small."""
    for part in compare_memory(server.placement, memory):
        if part.exceeds and part.measured is not None and part.error_ratio is not None:
            log.warning(
                "estimate_exceeded",
                instance=server.key.instance_id,
                device=part.device,
                estimated=part.estimated.total - part.estimated.overhead,
                measured=part.measured.total,
                error=f"{part.error_ratio:+.1%}",
                remedy="a mistake in Stoker's formulae: please report it, with what "
                f"`stoker describe {server.deployment}` shows and the beginning of the instance's log",
            )
