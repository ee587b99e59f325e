"""Drains' workflows, as the API calls them. What counts is the worker's row; the workflow acts on it."""

from datetime import timedelta

from temporalio.client import Client
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from api.errors import TemporalAwayError
from stoker.domain.base import WorkerName
from stoker.domain.naming import CONTROL_QUEUE, SEARCH_ATTRIBUTES, drain_workflow_id
from workflows.drain import Drain
from workflows.types import DrainWorkerInput

_RPC_TIMEOUT = timedelta(seconds=10)
_WORKER_ATTRIBUTE = SEARCH_ATTRIBUTES[3]


async def begin_drain(client: Client, name: WorkerName) -> None:
    """Starts the drain of a worker, or tells the one that runs that it is wanted. Raises TemporalAwayError."""
    try:
        await client.start_workflow(
            Drain.run,
            DrainWorkerInput(worker=name),
            id=drain_workflow_id(name),
            task_queue=CONTROL_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"drain of worker {name}",
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(SearchAttributeKey.for_keyword(_WORKER_ATTRIBUTE), name)]
            ),
            start_signal="begin",
            rpc_timeout=_RPC_TIMEOUT,
        )
    except (RPCError, RuntimeError) as error:
        raise TemporalAwayError(
            "temporal_unavailable",
            f"Temporal does not answer: {error}. {name} takes nothing new from now on, and what it has stays until it "
            "is drained again",
        ) from error


async def call_off_drain(client: Client, name: WorkerName) -> None:
    """Tells the drain of a worker, if one runs, to look at its row now. Raises RPCError, RuntimeError."""
    handle = client.get_workflow_handle_for(Drain.run, drain_workflow_id(name))
    try:
        await handle.signal(Drain.call_off, rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
