"""`/`: the workers, and what each of their devices has left."""

from fastapi import Request, Response

from api.deps import ApiContext, ContextDep
from api.routes.health import cluster_health
from api.schemas.workers import WorkerRead
from api.web.live import Topic
from api.web.rendering import render
from api.web.route import page_router
from api.web.session import AdminPageDep
from stoker.storage.workers import Workers

router = page_router()


async def all_workers(context: ApiContext) -> list[WorkerRead]:
    """By name."""
    statuses = await context.read(lambda session, now: Workers(session, now).all())
    return [WorkerRead.of_status(status) for status in statuses]


@router.get("/")
async def show_fleet(request: Request, context: ContextDep, visitor: AdminPageDep) -> Response:
    """All workers."""
    workers = await all_workers(context)
    health = await cluster_health(context, visitor.key)
    return render(request, "fleet.html", live=["fleet"], workers=workers, health=health)


async def _look(context: ApiContext, _: str) -> object:
    return await all_workers(context)


TOPICS = {"fleet": Topic(_look)}
