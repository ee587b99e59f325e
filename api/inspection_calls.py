"""Reads models' headers for the API: itself from the network, by the workers from their disks."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio.client import Client

from api.errors import STATUS_BY_CODE, ProblemError, TemporalAwayError
from api.workflow_answers import asked_for
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles, ModelSource, SourceKind
from stoker.domain.naming import CONTROL_QUEUE, inspection_workflow_id
from stoker.model_source_error import ModelSourceError
from stoker.remote_models import RemoteModels
from workflows.inspection import Inspection
from workflows.types import InspectionInput, InspectionResult

ANSWER_WITHIN = timedelta(seconds=45)
"""Longer than a worker that is there takes to read a header from a slow disk."""

_GRACE_SECONDS = 5.0  # for Temporal to say that it took too long


async def inspect_model(client: Client, models: RemoteModels, source: ModelSource) -> tuple[ModelFiles, ModelProfile]:
    """The model's files, and what their header says. Raises ProblemError."""
    if source.kind is SourceKind.FILE:
        found = await inspect_file(client, source)
        return found.files, found.profile
    with as_problems():
        return await models.inspect(source)


@contextmanager
def as_problems() -> Iterator[None]:
    """Makes what is wrong with a model's source a ProblemError."""
    try:
        yield
    except ModelSourceError as error:
        code = error.code if error.code in STATUS_BY_CODE else "inspection_failed"
        raise ProblemError(code, str(error)) from error


async def inspect_file(client: Client, source: ModelSource) -> InspectionResult:
    """What the workers say of a `file:` source. Raises ProblemError."""
    with asked_for(lambda: _unanswered(source), otherwise="inspection_failed"):
        async with asyncio.timeout(ANSWER_WITHIN.total_seconds() + _GRACE_SECONDS):
            return await client.execute_workflow(
                Inspection.run,
                InspectionInput(source=source),
                id=inspection_workflow_id(uuid.uuid4().hex),
                task_queue=CONTROL_QUEUE,
                execution_timeout=ANSWER_WITHIN,
                static_summary=f"the header of {source}",
            )


def _unanswered(source: ModelSource) -> TemporalAwayError:
    return TemporalAwayError(
        "control_plane_unavailable",
        f"{source} was not read within {ANSWER_WITHIN.total_seconds():.0f} s; see that `stoker control-plane` runs",
    )
