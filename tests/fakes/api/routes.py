"""`/api/v1/routes`."""

from fastapi import FastAPI, Response

from api.errors import FieldError, ProblemError, not_found
from api.schemas.pages import Page, page_of
from api.schemas.routes import RouteRead, RouteWrite
from stoker.domain.model_routes import RouteStatus
from tests.fakes.api.state import ApiState
from tests.fakes.api.values import CREATED_AT


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/api/v1/routes")
    async def listing(limit: int = 100, after: str = "") -> Page[RouteRead]:
        items = [route for name, route in sorted(fake.routes.items()) if name > after]
        return page_of(items, [item.name for item in items], min(limit, fake.page))

    @app.put("/api/v1/routes/{name:path}")
    async def put(name: str, body: RouteWrite, response: Response) -> RouteRead:
        spec = body.spec(name)
        for index, target in enumerate(spec.targets):
            if target.deployment not in fake.deployments:
                message = f"there is no deployment {target.deployment!r}"
                error = FieldError(field=f"targets.{index}.deployment", message=message, value=target.deployment)
                raise ProblemError("invalid_request", message, errors=[error])
        status = RouteStatus(spec=spec, created_at=CREATED_AT, updated_at=CREATED_AT)
        response.status_code = 200 if name in fake.routes else 201
        fake.routes[name] = RouteRead.of_status(status)
        return fake.routes[name]

    @app.delete("/api/v1/routes/{name:path}", status_code=204)
    async def delete(name: str) -> None:
        if fake.routes.pop(name, None) is None:
            raise not_found("route", name)
