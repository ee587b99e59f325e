"""`/version` and `/readyz`, as far as `stoker doctor` reads them."""

from fastapi import FastAPI

from stoker.version import VERSION
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": VERSION}

    @app.get("/readyz")
    async def readyz() -> dict[str, object]:
        checks = {name: {"status": status, "required": "for changes only"} for name, status in fake.checks.items()}
        return {"status": "ok", "checks": checks}
