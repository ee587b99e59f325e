"""`/api/v1/estimates`."""

import asyncio

from fastapi import APIRouter

from api.deps import AdminDep, ApiContext, ContextDep
from api.errors import ProblemError, refusals
from api.inspection_calls import as_problems, inspect_model
from api.schemas.deployments import checked_source
from api.schemas.estimates import EstimateCreate, MemoryEstimateRead
from stoker.domain.estimation.assessment import assess
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.gguf import ModelProfile, ProjectorProfile
from stoker.domain.models import ModelSource, SourceKind

router = APIRouter(prefix="/estimates", tags=["estimates"])


@router.post("", responses=refusals(401, 403, 413, 422, 502, 503))
async def create_estimate(body: EstimateCreate, context: ContextDep, _: AdminDep) -> MemoryEstimateRead:
    """How much memory a model would take, per device and on the host. Only its header is read; nothing is deployed."""
    source, options = body.source(), body.engine_options()
    files, profile = await inspect_model(context.temporal, context.models, source)
    outcome = await asyncio.to_thread(
        assess,
        profile,
        options,
        devices=body.devices,
        split=tuple(body.split or ()),
        projector=await _projector(context, checked_source(body.projector)) if body.projector else None,
        draft=await _draft(context, checked_source(body.draft)) if body.draft else None,
    )
    if isinstance(outcome, EstimateRefusal):
        raise ProblemError("unsupported_model", outcome.message)
    return MemoryEstimateRead.of(body.model, files, profile, options, outcome)


async def _draft(context: ApiContext, source: ModelSource) -> ModelProfile:
    _, profile = await inspect_model(context.temporal, context.models, source)
    return profile


async def _projector(context: ApiContext, source: ModelSource) -> ProjectorProfile:
    if source.kind is SourceKind.FILE:
        raise ProblemError(
            "invalid_request",
            f"projector: {source} lies on a disk, and workers read models only: name one on the hub or the web, "
            "or ask `stoker estimate --mmproj` where the file is",
        )
    with as_problems():
        return await context.models.inspect_projector(source)
