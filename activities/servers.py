"""The processes of an instance on its host: one endless activity is one process (the host's control queue).

Whoever cancels decides what happens to the process:

1. The workflow asked for it (cancelled or terminated): the process is killed, and only then is the activity over.
2. Anything else (this agent stops, Temporal is away, an SRE pauses or resets the activity): we let go of the process,
   it keeps serving, and the next attempt adopts it.
"""

import asyncio
from contextlib import aclosing
from datetime import timedelta

import structlog
from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.heartbeats import beating
from activities.ports import (
    MainServerSpec,
    ProcessKey,
    ProcessPhase,
    ProcessStartError,
    ProcessStatus,
    ProcessSupervisor,
)
from activities.types import DrainInput, DrainResult, MainReady, ProcessEnd
from stoker.domain.measured_memory import MeasuredMemory, compare_memory
from stoker.domain.naming import READY_SIGNAL

log = structlog.get_logger()

_SIGNAL_RETRY_SECONDS = 1.0
_OWNER_RPC_TIMEOUT = timedelta(seconds=3)


class ServerActivities:
    """Holds the host's supervisor."""

    def __init__(self, supervisor: ProcessSupervisor) -> None:
        self._supervisor = supervisor

    @activity.defn
    async def serve_main(self, input: MainServerSpec) -> ProcessEnd:
        """Starts (or adopts) the main server and stays with it until it ends by itself, which is what is returned."""
        key = input.key
        latest: ProcessStatus | None = None
        teller: asyncio.Task[None] | None = None
        began = asyncio.get_running_loop().time()
        try:
            async with beating(lambda: latest):
                latest = await self._supervisor.ensure_started(input)
                loads = latest.phase is not ProcessPhase.READY  # else an earlier attempt saw it load
                if activity.info().attempt > 1 and latest.phase in (ProcessPhase.STARTING, ProcessPhase.LOADING):
                    await _signal_ready(MainReady(incarnation=key.incarnation, port=0, pid=latest.pid))
                async with aclosing(self._supervisor.watch(key)) as statuses:
                    async for latest in statuses:
                        if latest.phase is ProcessPhase.READY and teller is None:
                            seen = loads and not latest.adopted
                            took = asyncio.get_running_loop().time() - began if seen else 0.0
                            teller = asyncio.create_task(self._tell_ready(input, latest, took))
        except ProcessStartError as error:
            return ProcessEnd(cause=f"could not be started: {error}", retryable=error.retryable)
        except asyncio.CancelledError:
            if await _wanted_gone():
                await self._supervisor.kill(key)
            raise
        finally:
            if teller is not None:
                teller.cancel()
        return ProcessEnd(exit_code=latest.exit_code, cause=latest.cause, retryable=latest.retryable)

    async def _tell_ready(self, server: MainServerSpec, status: ProcessStatus, load_seconds: float) -> None:
        """Signals the instance that its main server answers, and what it took."""
        memory: MeasuredMemory | None = None
        try:
            memory = await self._supervisor.measure(server.key)
            if memory is not None:
                _warn_if_exceeded(server, memory)
        except Exception as error:
            # Whatever it is: a server that answers must become ready, though nobody knows what it took. An instance
            # that is never told so holds its claims and serves nobody.
            log.exception("memory_not_measured", instance=server.key.instance_id, error=repr(error))
        await _signal_ready(
            MainReady(
                incarnation=server.key.incarnation,
                port=status.port,
                pid=status.pid,
                adopted=status.adopted,
                load_seconds=load_seconds,
                memory=memory,
            )
        )

    @activity.defn
    async def drain_main(self, input: DrainInput) -> DrainResult:
        """Waits until the process answers no more requests; the caller has withdrawn its route before."""
        key = ProcessKey(instance_id=input.instance_id, incarnation=input.incarnation)
        async with beating(lambda: None):
            idle = await self._supervisor.drain(key, input.settle_seconds, input.timeout_seconds)
        return DrainResult(idle=idle)


async def _signal_ready(ready: MainReady) -> None:
    """Tries again while Temporal is away."""
    while True:
        try:
            await _owner().signal(READY_SIGNAL, ready)
            return
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return  # the instance has ended: nobody is left to be told
            log.warning("ready_signal_failed", workflow=activity.info().workflow_id, error=str(error))
            await asyncio.sleep(_SIGNAL_RETRY_SECONDS)


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


async def _wanted_gone() -> bool:
    """Whether the activity was cancelled because its workflow wants the process gone.

    `not_found` alone says only that this attempt is stale: after a reset or a time-out the process is still wanted.
    """
    details = activity.cancellation_details()
    if details is None:
        return False
    if details.cancel_requested:
        return True
    if details.not_found and not details.timed_out and not details.worker_shutdown:
        return await _owner_closed()
    return False


async def _owner_closed() -> bool:
    try:
        description = await _owner().describe(rpc_timeout=_OWNER_RPC_TIMEOUT)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return description.close_time is not None


def _owner() -> WorkflowHandle[object, object]:
    info = activity.info()
    if info.workflow_id is None:
        raise ApplicationError("serve_main belongs to an instance's workflow", non_retryable=True)
    return activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
