"""Removing a worker: its instances are told first, so that none waits for a host that is no more."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from api.deps import ApiContext
from api.drain_calls import call_off_drain
from api.errors import ProblemError, TemporalAwayError, not_found
from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.naming import WORKER_LOST_SIGNAL, instance_workflow_id
from stoker.storage.removal import Removed, StillInUse, holders_of, remove_worker
from workflows.types import WorkerLost

log = structlog.get_logger()

_RPC_TIMEOUT = timedelta(seconds=10)
_MOST_NAMED = 10


async def remove(context: ApiContext, name: WorkerName, *, force: bool) -> Removed:
    """Takes the worker out of the cluster. Raises ProblemError: not there, still in use, Temporal is away.

    With `force` it may be in use: it gets nothing new, who uses it is told that it is lost, and then it goes. Should
    Temporal be away, nothing goes, and to repeat it is all that is needed.
    """
    if force:
        if not await context.in_thread(lambda: context.ledger.cordon(name)):
            raise not_found("worker", name)
        holders = await context.read(lambda session, _: holders_of(session, name))
        await _tell_lost(context.temporal, name, holders)
    outcome = await context.in_thread(lambda: _remove(context, name, force))
    if outcome is None:
        raise not_found("worker", name)
    if isinstance(outcome, StillInUse):
        raise _in_use(name, outcome.instances)
    log.info("worker_removed", worker=name, instances=len(outcome.instances), certificates=outcome.certificates)
    await context.routes.refresh()
    try:
        await call_off_drain(context.temporal, name)
    except (RPCError, RuntimeError) as error:  # the drain finds it out by itself at its next look
        log.warning("drain_not_told", worker=name, error=str(error))
    return outcome


def _remove(context: ApiContext, name: WorkerName, force: bool) -> Removed | StillInUse | None:
    with context.database.claiming() as session:
        return remove_worker(session, context.clock(), name, force=force)


async def _tell_lost(client: Client, name: WorkerName, instances: Sequence[InstanceId]) -> None:
    lost = WorkerLost(worker=name, reason=f"{name} was removed by an administrator")
    try:
        await asyncio.gather(*(_tell_one(client, instance_id, lost) for instance_id in instances))
    except (RPCError, RuntimeError) as error:
        raise TemporalAwayError(
            "temporal_unavailable",
            f"Temporal does not answer: {error}. {name} takes nothing new from now on, and is still there: remove it "
            "again when Temporal is back",
        ) from error


async def _tell_one(client: Client, instance_id: InstanceId, lost: WorkerLost) -> None:
    handle = client.get_workflow_handle(instance_workflow_id(instance_id))
    try:
        await handle.signal(WORKER_LOST_SIGNAL, lost, rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # one that has ended needs no other place
            raise


def _in_use(name: WorkerName, instances: Sequence[InstanceId]) -> ProblemError:
    named = ", ".join(instances[:_MOST_NAMED]) + (" …" if len(instances) > _MOST_NAMED else "")
    count = f"{len(instances)} instance{'' if len(instances) == 1 else 's'}"
    return ProblemError(
        "worker_in_use",
        f"{name} still holds something of {count} ({named}): drain it first, or remove it with force=true",
    )
