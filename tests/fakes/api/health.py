"""`/version`, `/readyz` and `/metrics`, as far as the command line reads them."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

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

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return fake.metrics.pop(0) if len(fake.metrics) > 1 else fake.metrics[0]
