"""`/`: the workers, and what each of their devices has left."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response
from sqlmodel import Session

from api.deps import ApiContext, ContextDep
from api.routes.health import cluster_health
from api.schemas.workers import WorkerRead
from api.web.fleet_view import device_name, engine_name, meter_of, totals_of
from api.web.live import Topic
from api.web.rendering import render
from api.web.route import page_router
from api.web.session import AdminPageDep
from api.web.words import WORKER_STATE_CLASSES
from stoker.storage.workers import Workers

router = page_router()

ON_A_PAGE = 40
"""Workers: drawing more would hold up what else this process answers, again at each change."""

VIEW: dict[str, Any] = {
    "meter_of": meter_of,
    "device_name": device_name,
    "engine_name": engine_name,
    "state_classes": WORKER_STATE_CLASSES,
}
"""What templates that draw workers need."""


@router.get("/")
async def show_fleet(
    request: Request,
    context: ContextDep,
    visitor: AdminPageDep,
    after: Annotated[str, Query(max_length=63)] = "",
    name: Annotated[str, Query(max_length=63)] = "",
) -> Response:
    """All workers by name, or those with `name` in theirs."""
    workers = await all_workers(context)
    asked = [worker for worker in workers if name in worker.name and worker.name > after]
    return render(
        request,
        "fleet.html",
        live=["fleet"],
        workers=asked[:ON_A_PAGE],
        more=len(asked) > ON_A_PAGE,
        all_workers=workers,
        totals=totals_of(workers),
        instances=len({instance for worker in workers for instance in worker.instances}),
        health=await cluster_health(context, visitor.key),
        name=name,
        on_a_page=ON_A_PAGE,
        **VIEW,
    )


async def all_workers(context: ApiContext) -> list[WorkerRead]:
    """By name."""

    def read(session: Session, now: datetime) -> list[WorkerRead]:
        return [WorkerRead.of_status(status) for status in Workers(session, now).all()]

    return sorted(await context.read(read), key=lambda worker: worker.name)  # databases differ in how they order '-'


async def _look(context: ApiContext, _: str) -> object:
    # That a worker has reported the same again is no change: a page that is open shows when it was made.
    return await context.read(lambda session, now: Workers(session, now).marks()), context.absence.current()


TOPICS = {"fleet": Topic(_look)}
