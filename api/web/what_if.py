"""`/what-if`: what would be with more machines, or less, or another model. It is asked by GET: nothing changes."""

from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response

from api.deps import ContextDep
from api.errors import ProblemError
from api.routes import placements
from api.schemas.placements import PlacementsCreate, WhatIfRead
from api.web.fleet import all_workers
from api.web.forms import Form, checked
from api.web.placement_view import WORDS, drain_summary
from api.web.rendering import problem_status, render
from api.web.route import page_router
from api.web.session import AdminPageDep
from stoker.storage.deployments import Deployments

router = page_router()

NAME_OF_NEW = "what-if"
"""What a model that is not deployed is called while it is asked about."""


@router.get("/what-if")
async def show_what_if(
    request: Request,
    context: ContextDep,
    visitor: AdminPageDep,
    ask: Annotated[Literal["", "model", "name", "drain"], Query()] = "",
) -> Response:
    """The question's form, and the answer where one was asked."""
    form = Form({name: request.query_params.getlist(name) for name in request.query_params})
    workers = [worker.name for worker in await all_workers(context)]
    statuses = await context.read(lambda session, now: Deployments(session, now).all())
    answer, problem = None, None
    if ask:
        try:
            body = checked(PlacementsCreate, question_of(form))
            answer = await placements.create_placements(body, context, visitor.key)
        except ProblemError as error:
            problem = named_as_in_form(error)
    return render(
        request,
        "what_if.html",
        status=problem_status(problem) if problem else 200,
        ask=ask or "model",
        values=form.values(),
        without=form.all("without"),
        workers=workers,
        deployments=sorted(status.spec.name for status in statuses),
        answer=answer,
        headline=headline_of(answer, form) if answer is not None else "",
        problem=problem,
        words=WORDS,
    )


def question_of(form: Form) -> dict[str, Any]:
    """The form's question as REST asks it."""
    asked: dict[str, Any] = {"add": form.get("add").split(), "without": form.all("without")}
    if form.get("ask") == "drain":
        return asked | {"drain": form.get("drain")}
    if form.get("ask") == "name":
        return asked | {"name": form.get("name")}
    deployment: dict[str, Any] = {"name": NAME_OF_NEW, "model": form.get("model"), "replicas": form.number("replicas")}
    if "context_length" in form:
        deployment["options"] = {"context_length": form.number("context_length")}
    return asked | {"deployment": {name: value for name, value in deployment.items() if value is not None}}


def named_as_in_form(problem: ProblemError) -> ProblemError:
    """The same, its fields called what the form calls them."""
    fields = [
        error.model_copy(update={"field": error.field.removeprefix("deployment.").removeprefix("options.")})
        for error in problem.errors
    ]
    detail = "; ".join(f"{field.field}: {field.message}" for field in fields) or problem.detail
    return ProblemError(problem.code, detail, errors=fields)


def headline_of(answer: WhatIfRead, form: Form) -> str:
    """The answer in a sentence."""
    if form.get("ask") == "drain":
        return drain_summary(answer.moves)
    count = len(answer.placements)
    replicas = f"{count} replica{'' if count == 1 else 's'}"
    if answer.fits:
        return f"It fits: {replicas} would have a place."
    return f"It does not fit: {replicas} would have a place, and the next would not." if count else "It does not fit."
