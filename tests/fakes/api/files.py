"""`/api/v1/files`."""

from threading import Event
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from api.errors import ProblemError
from api.schemas.files import EvictedRead, StoredModelRead
from api.schemas.pages import Page, page_of
from api.watch import watch_response
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/files", response_model=Page[StoredModelRead])
    async def listing(
        worker: str | None = None, model: str = "", limit: int = 100, after: str = "", watch: bool = False
    ) -> Any:
        async def read() -> list[tuple[str, BaseModel]]:
            found = (item for item in fake.stored if worker in (None, item.worker) and model in item.model)
            return [(item.id, item) for item in found if watch or item.id > after]

        if watch:
            return watch_response(Event(), read)
        items = await read()
        return page_of([item for _, item in items], [item_id for item_id, _ in items], min(limit, fake.page))

    @app.delete("/api/v1/files/{worker}/{model:path}")
    async def evict(worker: str, model: str, force: bool = False) -> EvictedRead:
        (item,) = (item for item in fake.stored if (item.worker, item.model) == (worker, model))
        if item.in_use:
            raise ProblemError("file_in_use", f"{model} is in use on {worker}, by {', '.join(item.instances)}")
        if not (item.own or force):
            raise ProblemError("file_not_own", f"{model} was not fetched by Stoker")
        fake.stored.remove(item)
        return EvictedRead(worker=worker, model=model, freed_bytes=item.stored_bytes)
