"""What goes on in a deployment: what its instances write, and what happened to them."""

from fastapi import Request, Response

from api.deployment_events import deployment_events
from api.deps import ContextDep, InstancePath
from api.errors import ProblemError, TemporalAwayError, not_found
from api.routes.deployments import NamePath
from api.routes.instances import get_instance, get_instance_logs
from api.web.deployments import one_deployment
from api.web.deployments_view import TONES
from api.web.rendering import render
from api.web.route import page_router
from api.web.session import AdminPageDep

router = page_router()


@router.get("/deployments/{name}/logs/{instance_id}")
async def show_logs(
    name: NamePath, instance_id: InstancePath, context: ContextDep, visitor: AdminPageDep, follow: bool = False
) -> Response:
    """What an instance's processes wrote, as plain text; with `follow`, until the page is left."""
    instance = await get_instance(instance_id, context, visitor.key)
    if instance.deployment != name:
        raise not_found("instance", instance_id)
    return await get_instance_logs(instance_id, context, visitor.key, tail=500, follow=follow)


@router.get("/deployments/{name}/events")
async def show_events(request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep) -> Response:
    """What happened to it and its instances; a part of its page, or a page of its own where there are no scripts."""
    part = "hx-request" in request.headers
    try:
        read = await one_deployment(context, visitor, name)
    except ProblemError as problem:
        if part and problem.code == "not_found":
            return Response(status_code=204)  # the page that this is a part of is about to be left
        raise
    events, away = [], ""
    try:
        events = await deployment_events(context.temporal, name, [one.id for one in read.instances])
    except TemporalAwayError as error:
        away = error.detail
    return render(request, "deployment_events.html", deployment=name, events=events, away=away, tones=TONES, part=part)
