"""`/api/v1/routes`: aliases, shares and fallbacks of deployments."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from api.audit import note
from api.deps import AdminDep, ContextDep, LimitDep
from api.errors import FieldError, ProblemError, not_found, refusals
from api.schemas.pages import Page, page_of
from api.schemas.routes import RouteRead, RouteWrite, etag_of
from stoker.domain.model_routes import ROUTE_NAME_PATTERN, RouteSpec, RouteStatus
from stoker.storage.deployments import Deployments
from stoker.storage.model_routes import ModelRoutes

router = APIRouter(prefix="/routes", tags=["routes"])

REFUSALS = refusals(401, 403, 404, 412, 413, 422, 503)

RoutePath = Annotated[str, Path(pattern=ROUTE_NAME_PATTERN, description="What clients write into `model`.")]
AfterRouteDep = Annotated[
    str,
    Query(
        max_length=128,
        pattern=r"^[A-Za-z0-9._:@/+-]*$",
        description="Only items behind this name: `last` of the page before.",
    ),
]
IfMatch = Annotated[str | None, Header(alias="If-Match", max_length=100, description="The ETag that it must have.")]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", max_length=100, description="`*`: only if there is none of that name.")
]


@router.get("", responses=refusals(401, 403, 422, 503))
async def list_routes(
    context: ContextDep, _: AdminDep, limit: LimitDep = 100, after: AfterRouteDep = ""
) -> Page[RouteRead]:
    """All routes, by name."""
    items = await context.read(lambda session, now: ModelRoutes(session, now).all(after=after, limit=limit + 1))
    return page_of([RouteRead.of_status(item) for item in items], [item.spec.name for item in items], limit)


@router.get("/{name:path}", responses=REFUSALS)
async def get_route(name: RoutePath, response: Response, context: ContextDep, _: AdminDep) -> RouteRead:
    """One route. Its ETag tells its content."""
    status = await context.read(lambda session, now: ModelRoutes(session, now).get(name))
    if status is None:
        raise not_found("route", name)
    return _shown(status, response)


@router.put("/{name:path}", responses={201: {"model": RouteRead}, **REFUSALS})
async def put_route(
    name: RoutePath,
    body: RouteWrite,
    response: Response,
    context: ContextDep,
    _: AdminDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> RouteRead:
    """Makes a route (201), or replaces the one of that name (200). Requests follow it from the next one on."""
    note.concerns("route", name)
    spec = body.spec(name)

    def put(session: Session, now: datetime) -> tuple[RouteStatus, bool]:
        before = ModelRoutes(session, now).get(name, for_change=True)
        note.changed(before.spec if before is not None else None, spec)
        _check_expected(name, before, if_match, if_none_match)
        _check_deployments(session, now, spec)
        routes = ModelRoutes(session, now)
        return (routes.add(spec), True) if before is None else (routes.replace(spec), False)

    try:
        status, created = await context.write(put)
    except IntegrityError:  # somebody else has made it just now
        status, created = await context.write(put)
    await context.routes.refresh()
    if created:
        response.status_code = 201
    return _shown(status, response)


@router.delete("/{name:path}", status_code=204, responses=REFUSALS)
async def delete_route(name: RoutePath, context: ContextDep, _: AdminDep, if_match: IfMatch = None) -> None:
    """Removes a route. The deployments that it led to go on under their own names."""
    note.concerns("route", name)

    def remove(session: Session, now: datetime) -> None:
        before = ModelRoutes(session, now).get(name, for_change=True)
        if before is None:
            raise not_found("route", name)
        _check_expected(name, before, if_match, None)
        ModelRoutes(session, now).remove(name)

    await context.write(remove)
    await context.routes.refresh()


def _check_expected(name: str, before: RouteStatus | None, if_match: str | None, if_none_match: str | None) -> None:
    found = etag_of(before.spec) if before is not None else None
    if if_match is not None and (found is None or not _matches(if_match, found)):
        now = f'now has the ETag "{found}"' if found else "is not there"
        raise ProblemError("route_conflict", f"If-Match: {if_match}: the route {name!r} {now}")
    if if_none_match is not None and found is not None and _matches(if_none_match, found):
        raise ProblemError("route_conflict", f"If-None-Match: {if_none_match}: the route {name!r} is there already")


def _matches(header: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return "*" in tags or etag in tags


def _check_deployments(session: Session, now: datetime, spec: RouteSpec) -> None:
    """Raises ProblemError where a name could not be followed, or would never be."""
    deployments = Deployments(session, now)
    if deployments.get(spec.name) is not None:
        message = "a deployment has this name, and a deployment's own name wins: choose another"
        raise _invalid("name", message, spec.name)
    named = [(f"targets.{index}", target.deployment) for index, target in enumerate(spec.targets)]
    named += [(f"fallbacks.{index}", fallback.deployment) for index, fallback in enumerate(spec.fallbacks)]
    for field, deployment in named:
        if deployments.get(deployment) is None:
            message = f"there is no deployment {deployment!r}: `stoker ps` lists those that there are"
            raise _invalid(f"{field}.deployment", message, deployment)


def _invalid(field: str, message: str, value: str) -> ProblemError:
    return ProblemError(
        "invalid_request", f"{field}: {message}", errors=[FieldError(field=field, message=message, value=value)]
    )


def _shown(status: RouteStatus, response: Response) -> RouteRead:
    response.headers["etag"] = f'"{etag_of(status.spec)}"'
    return RouteRead.of_status(status)
