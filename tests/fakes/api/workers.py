"""`/api/v1/workers`, and what else is asked of the fleet: its health, and what would be."""

from threading import Event
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel

from api.errors import ProblemError
from api.schemas.health import Health
from api.schemas.pages import Page, page_of
from api.schemas.placements import PlacementsCreate, WhatIfRead
from api.schemas.workers import WorkerRead, WorkerRemoved
from api.watch import watch_response
from stoker.domain.workers import WorkerState
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/health")
    async def health() -> Health:
        return Health.of_absence(fake.absence)

    @app.get("/api/v1/workers", response_model=Page[WorkerRead])
    async def listing(limit: int = 100, after: str = "", watch: bool = False) -> Any:
        shown = [(status.worker.name, WorkerRead.of_status(status)) for status in fake.workers]
        if watch:

            async def read() -> list[tuple[str, BaseModel]]:
                return list(shown)

            return watch_response(Event(), read)
        items = [item for name, item in shown if name > after]
        return page_of(items, [item.name for item in items], min(limit, fake.page))

    @app.get("/api/v1/workers/{name}", response_model=WorkerRead)
    async def get(name: str, watch: bool = False) -> Any:
        async def read() -> list[tuple[str, BaseModel]]:
            if fake.worker_life:
                fake.put_worker(fake.worker_life.pop(0))
            return [(name, WorkerRead.of_status(fake.worker(name)))]

        shown = WorkerRead.of_status(fake.worker(name))
        return watch_response(Event(), read) if watch else shown

    @app.delete("/api/v1/workers/{name}")
    async def remove(name: str, force: bool = False) -> WorkerRemoved:
        instances = WorkerRead.of_status(fake.worker(name)).instances
        if instances and not force:
            raise ProblemError("worker_in_use", f"{name} still holds something of {len(instances)} instances")
        fake.workers = [status for status in fake.workers if status.worker.name != name]
        return WorkerRemoved(name=name, instances=instances, certificates_revoked=1)

    @app.post("/api/v1/workers/{name}/cordon")
    async def cordon(name: str) -> WorkerRead:
        return fake.stand(name, WorkerState.CORDONED)

    @app.post("/api/v1/workers/{name}/uncordon")
    async def uncordon(name: str) -> WorkerRead:
        return fake.stand(name, WorkerState.READY)

    @app.post("/api/v1/workers/{name}/drain", status_code=202)
    async def drain(name: str, response: Response, dry_run: bool = False) -> WhatIfRead:
        if dry_run:
            fake.worker(name)
            response.status_code = 200
        else:
            fake.stand(name, WorkerState.DRAINING)
        return fake.what_if

    @app.post("/api/v1/placements")
    async def placements(body: PlacementsCreate) -> WhatIfRead:
        if fake.refusals:
            raise fake.refusals.pop(0)
        return fake.what_if

    @app.post("/api/v1/workers/{name}/join")
    async def join(name: str) -> None:
        raise ProblemError("unauthorized", "wrong join token: it is in the file `join-token` of the data folder")
