"""`/files`: the models on the workers' disks."""

from typing import Annotated

from fastapi import Query, Request, Response

from api.deps import ApiContext, ContextDep, WorkerNamePath
from api.routes import files
from api.routes.files import ModelKeyPath
from api.schemas.pages import Page
from api.web.forms import FormDep
from api.web.live import Topic
from api.web.rendering import redirect, render
from api.web.route import page_router
from api.web.session import AdminPageDep
from stoker.domain.units import format_bytes
from stoker.storage.files import Files

router = page_router()

ON_A_PAGE = 200


@router.get("/files")
async def show_files(
    request: Request,
    context: ContextDep,
    visitor: AdminPageDep,
    worker: Annotated[str, Query(max_length=63)] = "",
    after: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """All of them, or one worker's."""
    found = await files.list_files(context, visitor.key, worker=worker or None, limit=ON_A_PAGE, after=after)
    assert isinstance(found, Page)  # noqa: S101  (nothing is watched)
    return render(
        request,
        "files.html",
        live=["files"],
        models=found.data,
        more=found.last if found.has_more else None,
        worker=worker,
    )


@router.get("/files/{worker}/{model:path}/evict")
async def ask_to_evict(worker: WorkerNamePath, model: ModelKeyPath, request: Request, _: AdminPageDep) -> Response:
    """Asks whether it is meant."""
    return render(request, "evict.html", worker=worker, model=model)


@router.post("/files/{worker}/{model:path}/evict")
async def evict(
    worker: WorkerNamePath,
    model: ModelKeyPath,
    request: Request,
    context: ContextDep,
    visitor: AdminPageDep,
    form: FormDep,
) -> Response:
    """Takes it off the disk."""
    evicted = await files.evict_files(worker, model, context, visitor.key, force=form.get("force") == "yes")
    return redirect(request, "/files", f"{model} is off {worker}'s disk: {format_bytes(evicted.freed_bytes)} are free")


async def _look(context: ApiContext, _: str) -> object:
    return await context.read(lambda session, now: (Files(session, now).all(), Files(session, now).users()))


TOPICS = {"files": Topic(_look)}
