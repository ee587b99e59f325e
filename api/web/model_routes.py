"""`/routes`: other names for deployments: aliases, shares, fallbacks."""

import re
from typing import Any

from fastapi import Request, Response

from api.deps import ContextDep
from api.errors import ProblemError
from api.routes import model_routes
from api.routes.model_routes import RoutePath
from api.schemas.routes import RouteWrite
from api.web.forms import Form, FormDep, checked, refused_field
from api.web.rendering import problem_status, redirect, render
from api.web.route import page_router
from api.web.session import AdminPageDep, Visitor
from stoker.domain.model_routes import ROUTE_NAME_HINT, ROUTE_NAME_PATTERN

router = page_router()

_MOST = 1000


@router.get("/routes")
async def show_routes(request: Request, context: ContextDep, visitor: AdminPageDep) -> Response:
    """All routes, and a form for one more."""
    return await _page(request, context, visitor)


@router.post("/routes")
async def set_route(request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep) -> Response:
    """Makes a route, or replaces the one of that name."""
    try:
        name = _name(form)
        body = checked(RouteWrite, {"targets": _targets(form), "fallbacks": _fallbacks(form)})
        await model_routes.put_route(name, body, Response(), context, visitor.key)
    except ProblemError as problem:
        return await _page(request, context, visitor, form.values(), problem)
    return redirect(request, "/routes", f"the route {name} is set: requests follow it from the next one on")


@router.post("/routes/{name:path}/remove")
async def remove_route(
    name: RoutePath, request: Request, context: ContextDep, visitor: AdminPageDep, _: FormDep
) -> Response:
    """Removes a route."""
    await model_routes.delete_route(name, context, visitor.key)
    return redirect(request, "/routes", f"the route {name} is removed")


async def _page(
    request: Request,
    context: ContextDep,
    visitor: Visitor,
    values: dict[str, str] | None = None,
    problem: ProblemError | None = None,
) -> Response:
    found = await model_routes.list_routes(context, visitor.key, limit=_MOST)
    status = problem_status(problem) if problem else 200
    return render(request, "routes.html", status=status, routes=found.data, values=values or {}, problem=problem)


def _name(form: Form) -> str:
    name = form.get("name")
    if not re.fullmatch(ROUTE_NAME_PATTERN, name):
        raise refused_field("name", name, f"write {ROUTE_NAME_HINT}")
    return name


def _targets(form: Form) -> list[dict[str, Any]]:
    """`llama=9 next=1` as REST says it. Raises ProblemError."""
    found: list[dict[str, Any]] = []
    for text in form.words("targets"):
        deployment, equals, weight = text.partition("=")
        if equals and not re.fullmatch(r"[0-9]{1,18}", weight):  # more digits than int() reads are an error of its own
            raise refused_field("targets", text, f"{text[:100]}: write DEPLOYMENT or DEPLOYMENT=WEIGHT, like llama=9")
        found.append({"deployment": deployment, **({"weight": int(weight)} if equals else {})})
    return found


def _fallbacks(form: Form) -> list[dict[str, Any]]:
    """Each with the usual statuses."""
    return [{"deployment": deployment} for deployment in form.words("fallbacks")]
