"""`/livez`, `/readyz`, `/version`, `/metrics`: for whoever watches the API itself. `/api/v1/health`: the cluster's."""

from datetime import datetime

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session
from temporalio.service import RPCError

from api.deps import AdminDep, ContextDep
from api.errors import refusals
from api.schemas.health import Health
from stoker.domain.naming import CONTROL_QUEUE
from stoker.temporal import has_pollers
from stoker.version import VERSION

router = APIRouter(tags=["health"])
alarms = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


class Check(BaseModel):
    """How one part is: `ok`, or `failed: …`."""

    status: str
    required: str


class Readiness(BaseModel):
    """`ok` when the API can serve; its parts by name."""

    status: str
    checks: dict[str, Check]


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(context: ContextDep) -> JSONResponse:
    """Whether the API can serve, and how its parts are.

    Temporal is shown and not required: models that run are served without it.
    """
    database = temporal = control_plane = "ok"
    try:
        await context.read(_reaches_database)
    except SQLAlchemyError as error:
        database = f"failed: {type(error).__name__}"
    try:
        if not await has_pollers(context.temporal, CONTROL_QUEUE):
            control_plane = "failed: nobody takes work from its queue"
    except (RPCError, RuntimeError) as error:
        temporal = control_plane = f"failed: {type(error).__name__}"
    ready = database == "ok" or bool(context.routes.current().models)
    readiness = Readiness(
        status="ok" if ready else "failed",
        checks={
            "database": Check(status=database, required="for changes; known models are served without it"),
            "temporal": Check(status=temporal, required="for changes only"),
            "control_plane": Check(status=control_plane, required="for changes only"),
        },
    )
    return JSONResponse(readiness.model_dump(), status_code=200 if ready else 503)


@router.get("/version")
async def version() -> dict[str, str]:
    """Which Stoker this is."""
    return {"version": VERSION}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(context: ContextDep) -> Response:
    """Prometheus metrics: what all processes of this server counted, and what they see."""

    def text() -> bytes:  # in a thread: with a thousand instances it takes 0.1 s
        return context.metrics.text() + generate_latest(context.view_registry)

    return Response(await context.in_thread(text), media_type=CONTENT_TYPE_LATEST)


@alarms.get("/health", responses=refusals(401, 403, 422, 503))
async def cluster_health(context: ContextDep, _: AdminDep) -> Health:
    """Whether the cluster looks after itself, or needs a person.

    It moves what runs on a lost worker, unless so many workers are silent at once that the fault is likelier elsewhere:
    then nothing is moved, and this says so, until enough of them report again or are removed.
    """
    return Health.of_absence(context.absence.current())


def _reaches_database(session: Session, _: datetime) -> None:
    session.execute(text("SELECT 1"))
