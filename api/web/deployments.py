"""`/deployments`: what is wanted and how far it has come; and one deployment, with what can be done to it."""

import json
from datetime import datetime
from functools import partial
from typing import Annotated, Any, cast

from fastapi import Query, Request, Response
from sqlmodel import Session

from api.deps import ApiContext, ContextDep
from api.errors import ProblemError
from api.routes.deployments import NamePath, delete_deployment, get_deployment, update_deployment
from api.routes.revisions import list_revisions, undo_deployment
from api.routes.usage import list_usage_requests
from api.schemas.deployments import DeploymentRead, DeploymentUpdate
from api.schemas.rollouts import UndoCreate
from api.web import deployments_view as view
from api.web.deployments_preview import changes_in_words
from api.web.forms import Form, FormDep, checked
from api.web.live import Topic
from api.web.placement_view import WORDS
from api.web.rendering import redirect, render
from api.web.route import page_router
from api.web.session import AdminPageDep, Visitor
from stoker.domain.deployments import InstanceState
from stoker.domain.revisions import RevisionState
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.storage.by_time import Stretch
from stoker.storage.deployments import Deployments
from stoker.storage.instances import Instances
from stoker.storage.usage import usage_requests

router = page_router()

REQUESTS_SHOWN = 20
INSTANCES_SHOWN = 20
ON_A_PAGE = 40
"""Deployments: drawing more would hold up what else this process answers, again at each change."""

_REVISION_CLASSES = {RevisionState.CURRENT: "good", RevisionState.ROLLED_BACK: "warn"}


async def one_deployment(context: ApiContext, visitor: Visitor, name: str) -> DeploymentRead:
    """With the reasons of today where it waits. Raises ProblemError."""
    return cast(DeploymentRead, await get_deployment(name, Response(), context, visitor.key))


@router.get("/deployments")
async def show_deployments(
    request: Request,
    context: ContextDep,
    _: AdminPageDep,
    after: Annotated[str, Query(max_length=63)] = "",
    name: Annotated[str, Query(max_length=63)] = "",
) -> Response:
    """All by name, or those with `name` in theirs."""

    def read(session: Session, now: datetime) -> tuple[int, list[DeploymentRead]]:
        deployments = Deployments(session, now)
        names = sorted(deployments.names())  # databases differ in how they order '-'
        asked = [one for one in names if name in one and one > after][: ON_A_PAGE + 1]
        found = ((deployments.get(one), Instances(session, now).all(deployment=one)) for one in asked)
        return len(names), [DeploymentRead.of_status(status, instances) for status, instances in found if status]

    count, reads = await context.read(read)
    return render(
        request,
        "deployments.html",
        live=["deployments"],
        lines=[view.deployment_line(one) for one in reads[:ON_A_PAGE]],
        more=len(reads) > ON_A_PAGE,
        count=count,
        name=name,
        on_a_page=ON_A_PAGE,
    )


@router.get("/deployments/{name}")
async def show_deployment(request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep) -> Response:
    """All that is known of one."""
    try:
        read = await one_deployment(context, visitor, name)
    except ProblemError as problem:
        if problem.code == "not_found" and "hx-request" in request.headers:  # it went while somebody looked at it
            return redirect(request, "/deployments", f"the deployment {name} is gone")
        raise
    revisions = await list_revisions(name, context, visitor.key)
    requests = await list_usage_requests(context, visitor.key, model=name, limit=REQUESTS_SHOWN)
    return render(
        request,
        "deployment.html",
        live=[f"deployment/{name}", f"requests/{name}"],
        read=read,
        instances=read.instances[:INSTANCES_SHOWN],
        requests=requests.data,
        revisions=revisions.data,
        changes_in_words=changes_in_words,
        revision_classes=_REVISION_CLASSES,
        view=view,
        words=WORDS,
        workflows=_workflows(context),
    )


@router.post("/deployments/{name}/scale")
async def scale_deployment(
    request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """So many replicas from now on."""
    body = checked(DeploymentUpdate, {"replicas": form.number("replicas")})
    await update_deployment(name, body, Response(), context, visitor.key)
    return redirect(request, f"/deployments/{name}", f"{_replicas(body.replicas)} of {name} wanted")


@router.post("/deployments/{name}/change")
async def change_deployment(
    request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """A change that Stoker suggested, unless somebody has changed the deployment since."""
    body = checked(DeploymentUpdate, _change(form))
    generation = expected_generation(form)
    await update_deployment(name, body, Response(), context, visitor.key, generation)
    return redirect(request, f"/deployments/{name}", f"applied to {name}: {form.get('text')[:200]}")


@router.post("/deployments/{name}/undo")
async def undo_change(
    request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """Makes what an earlier revision asked for wanted again; without a generation, the last that ran."""
    body = checked(UndoCreate, {"generation": form.number("generation")})
    await undo_deployment(name, Response(), context, visitor.key, body)
    told = f"generation {body.generation}" if body.generation is not None else "what ran before"
    return redirect(request, f"/deployments/{name}", f"{told} of {name} is wanted again")


@router.post("/deployments/{name}/delete")
async def end_deployment(
    request: Request, name: NamePath, context: ContextDep, visitor: AdminPageDep, _: FormDep
) -> Response:
    """Begins its end."""
    await delete_deployment(name, Response(), context, visitor.key)
    return redirect(request, "/deployments", f"deleting {name}: requests that are being answered may finish")


def expected_generation(form: Form) -> int | None:
    """The generation that the page was made from; None: it does not matter."""
    number = form.number("generation")
    return number if isinstance(number, int) else None


def _change(form: Form) -> dict[str, Any]:
    try:
        body = json.loads(form.get("change"))
    except ValueError as error:
        raise ProblemError("invalid_request", f"change: no valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise ProblemError("invalid_request", "change: it must be an object with fields of a deployment")
    return body


def _replicas(count: int | None) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _workflows(context: ApiContext) -> str:
    """Where Temporal's UI shows our workflows, to be followed by an id; empty: nobody said where it is."""
    ui = context.temporal_ui
    return f"{ui}/namespaces/{context.temporal.namespace}/workflows/" if ui else ""


async def _look_at_all(context: ApiContext, _: str) -> object:
    """Their rows as they are: making values of all would take long, again and again."""
    return await context.read(lambda session, now: (Deployments(session, now).marks(), Instances(session, now).marks()))


async def _look_at_one(context: ApiContext, name: str) -> object:
    """Its rows, and, while an instance of it waits, why it would wait today: for that the fleet need only change."""

    def read(session: Session, now: datetime) -> tuple[DeploymentStatus | None, tuple[InstanceStatus, ...]]:
        return Deployments(session, now).get(name), Instances(session, now).all(deployment=name)

    status, instances = await context.read(read)
    waiting = next((one for one in instances if one.state is InstanceState.PENDING), None)
    why = await context.in_thread(partial(context.ledger.explain, waiting.instance_id)) if waiting else None
    return status, instances, why


async def _look_at_requests(context: ApiContext, name: str) -> object:
    return await context.read(lambda session, _: usage_requests(session, Stretch(None, None), limit=1, model=name))


TOPICS = {
    "deployments": Topic(_look_at_all),
    "deployment": Topic(_look_at_one),
    "requests": Topic(_look_at_requests),
}
