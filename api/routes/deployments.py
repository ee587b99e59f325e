"""`/api/v1/deployments`."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from sqlmodel import Session

from api import deployment_calls
from api.audit import note
from api.chosen_devices import check_devices
from api.deps import (
    AdminDep,
    AfterDep,
    ContextDep,
    DryRunDep,
    ExpectedGenerationDep,
    IdempotencyKeyDep,
    LimitDep,
    WatchDep,
)
from api.errors import ProblemError, field_errors, not_found, refusals
from api.rollout_plans import rollout_plan
from api.schemas.deployments import DeploymentCreate, DeploymentRead, DeploymentUpdate
from api.schemas.pages import Page, page_of
from api.schemas.rollouts import RolloutPlanRead
from api.watch import watch_response
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.storage.deployments import Deployments
from stoker.storage.instances import Instances
from workflows.types import ApplyResult, DeploymentState, Wanted

router = APIRouter(prefix="/deployments", tags=["deployments"])

NamePath = Annotated[str, Path(pattern=DEPLOYMENT_NAME_PATTERN)]
REFUSALS = refusals(401, 403, 404, 409, 412, 413, 422, 503)

MOST_EXPLAINED = 4
"""Waiting instances of one deployment that are looked at anew when it is read; the reasons of others are alike."""

MERGE_TRIES = 5
MERGE_PAUSE_SECONDS = 0.05
"""How often a change is worked out anew when others change the deployment at the same moment, and how far apart."""


@router.post("", status_code=201, responses={200: {"model": DeploymentRead | RolloutPlanRead}, **REFUSALS})
async def create_deployment(
    body: DeploymentCreate,
    response: Response,
    context: ContextDep,
    caller: AdminDep,
    idempotency_key: IdempotencyKeyDep = None,
    dry_run: DryRunDep = False,
) -> DeploymentRead | RolloutPlanRead:
    """Makes a deployment (201), or changes the one of that name (200). The model's header is read before the answer.

    With `dry_run` it tells what that would do (200), and does nothing.
    """
    await check_devices(context, body.devices)
    spec = body.spec()
    if dry_run:
        note.changes_nothing()
        response.status_code = 200
        return await rollout_plan(context, spec)
    result = await apply_spec(context, spec, update_id=_update_id(idempotency_key, spec), by=caller.name)
    if not result.created:
        response.status_code = 200
    response.headers["location"] = f"/api/v1/deployments/{body.name}"
    return await shown(context, body.name, response)


@router.get("", responses=refusals(401, 403, 422, 503), response_model=Page[DeploymentRead])
async def list_deployments(
    context: ContextDep, _: AdminDep, limit: LimitDep = 100, after: AfterDep = "", watch: WatchDep = False
) -> Page[DeploymentRead] | StreamingResponse:
    """All deployments, by name."""
    if watch:
        return watch_response(
            context.stopping, lambda: context.read(lambda session, now: _identified(_listed(session, now)))
        )
    items = await context.read(lambda session, now: _listed(session, now, after=after, limit=limit + 1))
    return page_of(items, [item.name for item in items], limit)


@router.get("/{name}", responses=REFUSALS, response_model=DeploymentRead)
async def get_deployment(
    name: NamePath, response: Response, context: ContextDep, _: AdminDep, watch: WatchDep = False
) -> DeploymentRead | StreamingResponse:
    """One deployment with its instances. The ETag is its generation."""
    found = await shown(context, name, response)
    if watch:
        return watch_response(
            context.stopping, lambda: context.read(lambda session, now: _identified(_found(session, now, name)))
        )
    return found


@router.patch("/{name}", responses=REFUSALS)
async def update_deployment(
    name: NamePath,
    body: DeploymentUpdate,
    response: Response,
    context: ContextDep,
    caller: AdminDep,
    expected_generation: ExpectedGenerationDep = None,
    dry_run: DryRunDep = False,
) -> DeploymentRead | RolloutPlanRead:
    """Changes a deployment. With `If-Match` only if nobody else changed it meanwhile; else the last one wins.

    With `dry_run` it tells what that would do, and does nothing.
    """
    await check_devices(context, body.devices or ())
    if dry_run:
        note.changes_nothing()
        spec, _ = await _changed(context, name, body)
        return await rollout_plan(context, spec, expected_generation=expected_generation)
    tries = 1 if expected_generation is not None else MERGE_TRIES
    for left in reversed(range(tries)):
        try:
            spec, generation = await _changed(context, name, body)
            await apply_spec(context, spec, expected_generation=expected_generation or generation, by=caller.name)
            break
        except ProblemError as error:
            if error.code != "generation_conflict" or not left:
                raise
            await asyncio.sleep(MERGE_PAUSE_SECONDS)
    return await shown(context, name, response)


@router.delete("/{name}", status_code=202, responses=REFUSALS)
async def delete_deployment(
    name: NamePath,
    response: Response,
    context: ContextDep,
    _: AdminDep,
    expected_generation: ExpectedGenerationDep = None,
) -> DeploymentRead:
    """Begins the deployment's end (202): running requests may finish, then its memory is given back. 404 when done."""
    before = await shown(context, name, response)
    state = await _remembered(context, name)
    if state is not None:
        await deployment_calls.delete(context.temporal, name, remembered=state, expected_generation=expected_generation)
    response.headers["location"] = f"/api/v1/deployments/{name}"
    left = await context.read(lambda session, now: _found(session, now, name))
    # One without instances is gone before this answer.
    return left[0] if left else before.model_copy(update={"state": "deleting", "message": "it is gone"})


async def _changed(context: ContextDep, name: str, body: DeploymentUpdate) -> tuple[DeploymentSpec, int]:
    """What is there now with `body` on top, and the generation that it was. Raises ProblemError."""
    status = await context.read(lambda session, now: Deployments(session, now).get(name))
    if status is None:
        raise not_found("deployment", name)
    try:
        return body.merged(status.spec).spec(), status.generation
    except ValidationError as error:
        fields = field_errors(error.errors())
        detail = "; ".join(f"{field.field}: {field.message}" for field in fields)
        raise ProblemError("invalid_request", detail, errors=fields) from error


async def apply_spec(
    context: ContextDep,
    spec: DeploymentSpec,
    *,
    by: str,
    reason: str = "",
    known: Wanted | None = None,
    expected_generation: int | None = None,
    update_id: str | None = None,
) -> ApplyResult:
    """Makes `spec` what is wanted; see `deployment_calls.apply`. Raises ProblemError."""
    return await deployment_calls.apply(
        context.temporal,
        spec,
        remembered=await _remembered(context, spec.name),
        expected_generation=expected_generation,
        update_id=update_id,
        by=by,
        reason=reason,
        known=known,
    )


async def _remembered(context: ContextDep, name: str) -> DeploymentState | None:
    """Where the deployment's workflow would go on, should it have to be started anew."""
    return await context.in_thread(lambda: deployment_calls.recalled(context.database, context.clock(), name))


def _update_id(idempotency_key: str | None, spec: DeploymentSpec) -> str | None:
    """What Temporal knows a repeated call by. The same key with another body is another call: none is dropped."""
    if idempotency_key is None:
        return None
    return sha256(f"{idempotency_key}\n{spec.model_dump_json()}".encode()).hexdigest()


async def shown(context: ContextDep, name: str, response: Response) -> DeploymentRead:
    """The deployment as it is now, with its ETag in `response`. Raises ProblemError."""
    found = await context.read(lambda session, now: _read(session, now, name))
    if found is None:
        raise not_found("deployment", name)
    status, instances = found
    response.headers["etag"] = f'"{status.generation}"'
    return DeploymentRead.of_status(status, await _explained(context, instances))


async def _explained(context: ContextDep, instances: Sequence[InstanceStatus]) -> tuple[InstanceStatus, ...]:
    """Those that wait with their reasons of today: what is kept was true when they were last looked at."""
    told = []
    waiting = 0
    for instance in instances:
        if instance.state is InstanceState.PENDING and waiting < MOST_EXPLAINED:
            waiting += 1
            why = await context.in_thread(partial(context.ledger.explain, instance.instance_id))
            if why is not None:
                instance = instance.model_copy(update={"unplaceable": why, "message": why.summary})
        told.append(instance)
    return tuple(told)


def _found(session: Session, now: datetime, name: str) -> list[DeploymentRead]:
    found = _read(session, now, name)
    return [DeploymentRead.of_status(*found)] if found is not None else []


def _read(session: Session, now: datetime, name: str) -> tuple[DeploymentStatus, tuple[InstanceStatus, ...]] | None:
    status = Deployments(session, now).get(name)
    return (status, Instances(session, now).all(deployment=name)) if status is not None else None


def _listed(session: Session, now: datetime, *, after: str = "", limit: int | None = None) -> list[DeploymentRead]:
    instances = Instances(session, now).all()
    return [
        DeploymentRead.of_status(status, tuple(i for i in instances if i.deployment == status.spec.name))
        for status in Deployments(session, now).all(after=after, limit=limit)
    ]


def _identified(items: Sequence[DeploymentRead]) -> list[tuple[str, DeploymentRead]]:
    return [(item.name, item) for item in items]
