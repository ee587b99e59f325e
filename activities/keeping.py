"""What every endless activity does: it stays with one process of this host, and whoever cancels it decides the rest.

1. The workflow asked for it (cancelled or terminated): the process is killed, and only then is the activity over.
2. Anything else (this agent stops, Temporal is away, an SRE pauses or resets the activity): we let go of the process,
   it keeps serving, and the next attempt adopts it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
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
    ProcessPhase,
    ProcessSpec,
    ProcessStartError,
    ProcessStatus,
    ProcessSupervisor,
)
from activities.types import ProcessEnd
from stoker.domain.base import Value, WorkerName

log = structlog.get_logger()

_SIGNAL_RETRY_SECONDS = 1.0
_OWNER_RPC_TIMEOUT = timedelta(seconds=3)

TellReady = Callable[[ProcessStatus, float], Coroutine[None, None, None]]
"""Tells the instance that the process is ready. Seconds from its start until then; 0: that was not seen."""


async def stay_with(
    supervisor: ProcessSupervisor,
    spec: ProcessSpec,
    tell_ready: TellReady,
    tell_started_anew: Callable[[ProcessStatus], Awaitable[None]] | None = None,
) -> ProcessEnd:
    """Starts (or adopts) the process and stays with it until it ends by itself, which is what is returned.

    `tell_started_anew`: takes back what an earlier attempt told, where this one finds that it is not ready (again).
    """
    key = spec.key
    latest: ProcessStatus | None = None
    teller: asyncio.Task[None] | None = None
    began = asyncio.get_running_loop().time()
    try:
        async with beating(lambda: latest):
            latest = await supervisor.ensure_started(spec)
            loads = latest.phase is not ProcessPhase.READY  # else an earlier attempt saw it load
            begins = latest.phase in (ProcessPhase.STARTING, ProcessPhase.LOADING)
            if tell_started_anew is not None and activity.info().attempt > 1 and begins:
                await tell_started_anew(latest)
            async with aclosing(supervisor.watch(key)) as statuses:
                async for latest in statuses:
                    if latest.phase is ProcessPhase.READY and teller is None:
                        seen = loads and not latest.adopted
                        took = asyncio.get_running_loop().time() - began if seen else 0.0
                        teller = asyncio.create_task(tell_ready(latest, took))
    except ProcessStartError as error:
        cause = f"could not be started: {error}"
        return ProcessEnd(cause=cause, retryable=error.retryable, code=error.code, worker=_host_of(spec))
    except asyncio.CancelledError:
        if await _wanted_gone():
            await supervisor.kill(key)
        raise
    finally:
        if teller is not None:
            teller.cancel()
    return ProcessEnd(
        exit_code=latest.exit_code,
        cause=latest.cause,
        retryable=latest.retryable,
        worker=latest.worker or "",
        code="frozen" if latest.frozen else "",
    )


async def signal_owner(name: str, value: Value) -> None:
    """Signals the instance whose process it is. Tries again while Temporal is away."""
    while True:
        try:
            await _owner().signal(name, value)
            return
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return  # the instance has ended: nobody is left to be told
            log.warning("ready_signal_failed", workflow=activity.info().workflow_id, error=str(error))
            await asyncio.sleep(_SIGNAL_RETRY_SECONDS)


def _host_of(spec: ProcessSpec) -> WorkerName:
    return spec.placement.worker if isinstance(spec, MainServerSpec) else spec.worker


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
        raise ApplicationError(f"{info.activity_type} belongs to an instance's workflow", non_retryable=True)
    return activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
