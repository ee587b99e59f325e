"""`/api/v1/placements`: where something would go."""

from fastapi import APIRouter

from api.chosen_devices import check_devices
from api.deps import AdminDep, ApiContext, ContextDep
from api.errors import not_found, refusals
from api.inspection_calls import inspect_model
from api.schemas.placements import PlacementsCreate, WhatIfRead
from api.what_if_calls import Change, known_model, preview_drain, simulate_deployment
from stoker.domain.deployments import DeploymentSpec
from stoker.storage.deployments import Deployments

router = APIRouter(prefix="/placements", tags=["placements"])


@router.post("", responses=refusals(401, 403, 404, 413, 422, 502, 503))
async def create_placements(body: PlacementsCreate, context: ContextDep, _: AdminDep) -> WhatIfRead:
    """Where a deployment would go, or a drained worker's instances: now, with more machines, or with less.

    Only what is not known of the model is read; nothing is claimed, and nothing kept.
    """
    change = Change(machines=body.machines(), without=body.without)
    if body.drain is not None:
        return WhatIfRead.of_drain(await preview_drain(context, body.drain, change))
    if body.deployment is not None:
        await check_devices(context, body.deployment.devices, field="deployment.devices")
        spec = body.deployment.spec()
    else:
        spec = await _spec_of(context, body.name or "")
    known = await known_model(context, spec)
    files, profile = known or await inspect_model(context.temporal, context.models, spec.model)
    return WhatIfRead.of_simulation(await simulate_deployment(context, spec, files, profile, change))


async def _spec_of(context: ApiContext, name: str) -> DeploymentSpec:
    status = await context.read(lambda session, now: Deployments(session, now).get(name))
    if status is None:
        raise not_found("deployment", name)
    return status.spec
