"""`/api/v1/deployments`."""

from typing import Any

from fastapi import FastAPI, Response

from api.schemas.deployments import DeploymentCreate, DeploymentRead, DeploymentUpdate
from api.schemas.pages import Page, page_of
from api.schemas.rollouts import RevisionsRead, RolloutPlanRead, UndoCreate
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.post("/api/v1/deployments", status_code=201)
    async def create(
        body: DeploymentCreate, response: Response, dry_run: bool = False
    ) -> DeploymentRead | RolloutPlanRead:
        if dry_run:
            response.status_code = 200
            return fake.planned(body)
        shown, created = fake.apply(body)
        response.status_code = 201 if created else 200
        return shown

    @app.get("/api/v1/deployments", response_model=Page[DeploymentRead])
    async def listing(limit: int = 100, after: str = "", watch: bool = False) -> Any:
        if watch:
            return fake.watched()
        items = [item for item in fake.all_shown() if item.name > after]
        return page_of(items, [item.name for item in items], min(limit, fake.page))

    @app.get("/api/v1/deployments/{name}", response_model=DeploymentRead)
    async def get(name: str, watch: bool = False) -> Any:
        shown = fake.shown(name)
        return fake.watched(name) if watch else shown

    @app.patch("/api/v1/deployments/{name}")
    async def change(name: str, body: DeploymentUpdate) -> DeploymentRead:
        fake.shown(name)
        return fake.apply(body.merged(fake.deployments[name].status.spec))[0]

    @app.delete("/api/v1/deployments/{name}", status_code=202)
    async def delete(name: str) -> DeploymentRead:
        fake.shown(name)
        deployed = fake.deployments[name]
        deployed.status = deployed.status.model_copy(update={"deleting": True})
        if deployed.steps[-1] is not None:
            deployed.steps = [deployed.steps[0], None]
        return fake.shown(name)

    @app.get("/api/v1/deployments/{name}/revisions")
    async def revisions(name: str) -> RevisionsRead:
        fake.shown(name)
        return RevisionsRead(data=fake.revisions)

    @app.post("/api/v1/deployments/{name}/undo")
    async def undo(name: str, body: UndoCreate) -> DeploymentRead:
        fake.shown(name)
        chosen = next(one for one in fake.revisions if body.generation in (None, one.generation))
        return fake.apply(chosen.deployment)[0]
