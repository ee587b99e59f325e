"""`/workers/NAME`: one worker; to cordon, drain or remove it, and to let another join."""

from datetime import datetime

from fastapi import Request, Response
from sqlmodel import Session

from api.deps import ApiContext, ContextDep, WorkerNamePath
from api.errors import ProblemError
from api.routes import join_tokens, workers
from api.schemas.instances import InstanceRead
from api.schemas.join_tokens import JoinTokenCreate, JoinTokenCreated
from api.schemas.workers import WorkerRead
from api.web.fleet import VIEW
from api.web.forms import FormDep, checked
from api.web.live import Topic
from api.web.placement_view import WORDS, drain_summary
from api.web.rendering import problem_status, redirect, render
from api.web.route import page_router
from api.web.session import AdminPageDep, address_of, local_path
from api.web.words import INSTANCE_STATE_CLASSES, counted
from stoker.domain.links import WorkerLink
from stoker.storage.instances import Instances
from stoker.storage.links import Links
from stoker.storage.workers import Workers

router = page_router()


@router.get("/join")
async def show_join(request: Request, _: AdminPageDep) -> Response:
    """What to do on a machine that is to become a worker."""
    return _join_page(request)


@router.post("/join")
async def make_join_token(request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep) -> Response:
    """Makes a token for one machine, and shows it once."""
    try:
        ttl = {"ttl_seconds": form.number("ttl_seconds")} if "ttl_seconds" in form else {}
        made = await join_tokens.create_join_token(checked(JoinTokenCreate, ttl), context, visitor.key)
    except ProblemError as problem:
        return _join_page(request, problem=problem)
    return _join_page(request, made)


def _join_page(request: Request, made: JoinTokenCreated | None = None, problem: ProblemError | None = None) -> Response:
    status = problem_status(problem) if problem else 200
    return render(request, "join.html", status=status, made=made, problem=problem, server=address_of(request))


@router.get("/workers/{name}")
async def show_worker(name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep) -> Response:
    """The worker, its devices, its instances, and the ways from it to others."""
    worker = await workers.get_worker(name, context, visitor.key)
    assert isinstance(worker, WorkerRead)  # noqa: S101  (nothing is watched)

    def others(session: Session, now: datetime) -> tuple[list[InstanceRead], list[WorkerLink]]:
        instances = [InstanceRead.of_status(one) for one in Instances(session, now).on_worker(name)]
        return instances, list(Links(session).of([name]).values())

    instances, links = await context.read(others)
    return render(
        request,
        "worker.html",
        live=[f"worker/{name}"],
        worker=worker,
        instances=instances,
        links=links,
        instance_classes=INSTANCE_STATE_CLASSES,
        **VIEW,
    )


@router.post("/workers/{name}/cordon")
async def cordon(
    name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """It gets nothing new."""
    await workers.cordon_worker(name, context, visitor.key)
    return redirect(
        request, local_path(form.get("back")) or "/", f"{name} is cordoned: it keeps what it has and gets nothing new"
    )


@router.post("/workers/{name}/uncordon")
async def uncordon(
    name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """It gets new instances again."""
    await workers.uncordon_worker(name, context, visitor.key)
    return redirect(request, local_path(form.get("back")) or "/", f"{name} gets new instances again")


@router.get("/workers/{name}/drain")
async def preview_drain(name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep) -> Response:
    """What a drain would move, and where to."""
    found = await workers.drain_worker(name, Response(), context, visitor.key, dry_run=True)
    return render(request, "drain.html", name=name, found=found, summary=drain_summary(found.moves), words=WORDS)


@router.post("/workers/{name}/drain")
async def drain(
    name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep, _: FormDep
) -> Response:
    """Begins to move its instances elsewhere."""
    found = await workers.drain_worker(name, Response(), context, visitor.key)
    moves = counted(len(found.moves), "instance")
    return redirect(request, f"/workers/{name}", f"{name} is being drained: {moves} to move")


@router.get("/workers/{name}/remove")
async def ask_to_remove(name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep) -> Response:
    """Asks whether it is meant."""
    worker = await workers.get_worker(name, context, visitor.key)
    return render(request, "remove_worker.html", worker=worker, problem=None)


@router.post("/workers/{name}/remove")
async def remove(
    name: WorkerNamePath, request: Request, context: ContextDep, visitor: AdminPageDep, form: FormDep
) -> Response:
    """Takes it out of the cluster."""
    try:
        removed = await workers.remove_worker(name, context, visitor.key, force=form.get("force") == "yes")
    except ProblemError as problem:
        if problem.code != "worker_in_use":
            raise
        worker = await workers.get_worker(name, context, visitor.key)
        status = problem_status(problem)
        return render(request, "remove_worker.html", status=status, worker=worker, problem=problem)
    certificates = counted(removed.certificates_revoked, "certificate")
    return redirect(request, "/", f"{name} is removed, and {certificates} of it revoked")


async def _look(context: ApiContext, name: str) -> object:
    def read(session: Session, now: datetime) -> object:
        worker = Workers(session, now).get(name)
        instances = [one.model_dump(exclude={"updated_at"}) for one in Instances(session, now).on_worker(name)]
        return worker and worker.model_dump(exclude={"seen_at"}), instances, Links(session).of([name])

    return await context.read(read)


TOPICS = {"worker": Topic(_look)}
