"""`/api/v1/files`: the models on the workers' disks."""

from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from sqlmodel import Session

from api.audit import note
from api.deps import AdminDep, ContextDep, LimitDep, WatchDep, WorkerNamePath
from api.errors import ProblemError, not_found, refusals
from api.eviction_calls import evict_model
from api.schemas.files import EvictedRead, StoredModelRead
from api.schemas.pages import Page, page_of
from api.watch import watch_response
from stoker.domain.base import DNS_LABEL_PATTERN
from stoker.storage.files import Files
from stoker.storage.workers import Workers

log = structlog.get_logger()
router = APIRouter(prefix="/files", tags=["files"])

_LONGEST_ID = 1000  # characters

AfterFileDep = Annotated[
    str, Query(max_length=_LONGEST_ID, description="Only items behind this id: `last` of the page before.")
]
ModelKeyPath = Annotated[
    str, Path(max_length=_LONGEST_ID, pattern="^hf:", description="`hf:ORG/REPO@COMMIT/FIRST-FILE`")
]


@router.get("", responses=refusals(401, 403, 422, 503), response_model=Page[StoredModelRead])
async def list_files(
    context: ContextDep,
    _: AdminDep,
    worker: Annotated[str | None, Query(pattern=DNS_LABEL_PATTERN, description="Only this worker's.")] = None,
    model: Annotated[
        str | None, Query(max_length=_LONGEST_ID, description="Only models whose name has this in it.")
    ] = None,
    limit: LimitDep = 100,
    after: AfterFileDep = "",
    watch: WatchDep = False,
) -> Page[StoredModelRead] | StreamingResponse:
    """The models from a hub on all workers' disks, by worker and name, with who uses them."""

    def identified(session: Session, now: datetime) -> list[tuple[str, StoredModelRead]]:
        files = Files(session, now)
        users = files.users()
        found = [
            StoredModelRead.of(name, stored, users.get((name, stored.model), ()))
            for name, models in files.all(worker=worker).items()
            for stored in models
            if model is None or model in stored.model
        ]
        return sorted((read.id, read) for read in found)

    if watch:
        return watch_response(context.stopping, lambda: context.read(identified))
    items = [(name, read) for name, read in await context.read(identified) if name > after][: limit + 1]
    return page_of([read for _, read in items], [name for name, _ in items], limit)


@router.delete("/{worker}/{model:path}", responses=refusals(401, 403, 404, 409, 422, 502, 503))
async def evict_files(
    worker: WorkerNamePath,
    model: ModelKeyPath,
    context: ContextDep,
    _: AdminDep,
    force: Annotated[
        bool, Query(description="Also what Stoker did not fetch itself, but found in the user's own cache of the hub.")
    ] = False,
) -> EvictedRead:
    """Takes a model off a worker's disk. Refused (409) while anything there uses it, also with `force`."""
    note.concerns("file", f"{worker}/{model}")

    def look(session: Session, now: datetime) -> tuple[bool, tuple[str, ...]]:
        users = Files(session, now).users().get((worker, model), ())
        return Workers(session, now).credential_hash(worker) is not None, users

    known, users = await context.read(look)
    if not known:
        raise not_found("worker", worker)
    if users:
        raise ProblemError("file_in_use", f"{model} is in use on {worker}, by {', '.join(users)}")
    freed = await evict_model(context.temporal, worker, model, force=force)
    await context.write(lambda session, now: Files(session, now).forget(worker, model))
    log.info("model_evicted", worker=worker, model=model, freed_bytes=freed)
    return EvictedRead(worker=worker, model=model, freed_bytes=freed)
