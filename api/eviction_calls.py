"""Takes models off workers' disks: the worker itself does it, and its answer is waited for."""

import asyncio
import uuid
from datetime import timedelta

from temporalio.client import Client

from api.errors import TemporalAwayError
from api.workflow_answers import asked_for
from stoker.domain.base import WorkerName
from stoker.domain.naming import CONTROL_QUEUE, eviction_workflow_id
from workflows.eviction import Eviction
from workflows.types import EvictionInput

ANSWER_WITHIN = timedelta(seconds=75)
"""Longer than a worker that is there takes to unlink many large files."""

_GRACE_SECONDS = 5.0  # for Temporal to say that it took too long


async def evict_model(client: Client, worker: WorkerName, model: str, *, force: bool) -> int:
    """The bytes that are free on the worker now. Raises ProblemError."""
    with asked_for(lambda: _unanswered(worker, model), otherwise="internal_error"):
        async with asyncio.timeout(ANSWER_WITHIN.total_seconds() + _GRACE_SECONDS):
            result = await client.execute_workflow(
                Eviction.run,
                EvictionInput(worker=worker, model=model, force=force),
                id=eviction_workflow_id(worker, uuid.uuid4().hex),
                task_queue=CONTROL_QUEUE,
                execution_timeout=ANSWER_WITHIN,
                static_summary=f"evict {model} from {worker}",
            )
    return result.freed


def _unanswered(worker: WorkerName, model: str) -> TemporalAwayError:
    return TemporalAwayError(
        "control_plane_unavailable",
        f"whether {model} is off the disk of {worker} was not told within {ANSWER_WITHIN.total_seconds():.0f} s; see "
        "that `stoker control-plane` runs, and `stoker files`",
    )
