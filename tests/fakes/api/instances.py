"""`/api/v1/instances`."""

from fastapi import FastAPI, Response

from api.errors import not_found
from api.schemas.instances import InstanceRead
from api.schemas.pages import Page, page_of
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/instances")
    async def listing(limit: int = 100, after: str = "") -> Page[InstanceRead]:
        items = [item for item in fake.instances() if item.id > after]
        return page_of(items, [item.id for item in items], min(limit, fake.page))

    @app.get("/api/v1/instances/{instance_id}/logs")
    async def logs(instance_id: str, tail: int = 200, follow: bool = False) -> Response:
        if instance_id not in fake.logs:
            raise not_found("instance", instance_id)
        text = "".join(f"{line}\n" for line in fake.logs[instance_id][-tail:])
        return Response(text + ("and more\n" if follow else ""), media_type="text/plain")
