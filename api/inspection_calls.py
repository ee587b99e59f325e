"""Looks at files on the workers' disks, as the API asks for them."""

import asyncio
import uuid
from datetime import timedelta

from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from api.errors import STATUS_BY_CODE, ProblemError, TemporalAwayError
from stoker.domain.models import ModelSource
from stoker.domain.naming import CONTROL_QUEUE, inspection_workflow_id
from workflows.inspection import Inspection
from workflows.types import InspectionInput, InspectionResult

ANSWER_WITHIN = timedelta(seconds=45)
"""Longer than a worker that is there takes to read a header from a slow disk."""

_GRACE_SECONDS = 5.0  # for Temporal to say that it took too long


async def inspect_file(client: Client, source: ModelSource) -> InspectionResult:
    """What the workers say of a `file:` source. Raises ProblemError."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN.total_seconds() + _GRACE_SECONDS):
            return await client.execute_workflow(
                Inspection.run,
                InspectionInput(source=source),
                id=inspection_workflow_id(uuid.uuid4().hex),
                task_queue=CONTROL_QUEUE,
                execution_timeout=ANSWER_WITHIN,
                static_summary=f"the header of {source}",
            )
    except WorkflowFailureError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError):
            code = cause.type if cause.type in STATUS_BY_CODE else "inspection_failed"
            raise ProblemError(code, cause.message) from error
        raise _unanswered(source) from error
    except TimeoutError as error:
        raise _unanswered(source) from error
    except (RPCError, RuntimeError) as error:
        raise TemporalAwayError("temporal_unavailable", f"Temporal does not answer: {error}") from error


def _unanswered(source: ModelSource) -> TemporalAwayError:
    return TemporalAwayError(
        "control_plane_unavailable",
        f"{source} was not read within {ANSWER_WITHIN.total_seconds():.0f} s; see that `stoker control-plane` runs",
    )
