"""The ASGI application: management routes by FastAPI, and beside it, with none of its layers in the way, `/v1`."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from prometheus_client import Gauge
from starlette.types import ASGIApp

from api import errors
from api.deps import ApiContext
from api.description import truthful
from api.estimate_errors import EstimateErrors
from api.middleware import head_as_get, identified, limited
from api.openai.metering import Metrics
from api.openai.routes import OpenAIApp, beside
from api.openai.upstream import Pool
from api.routes import deployments, estimates, health, instances, keys, workers
from stoker.version import VERSION

DESCRIPTION = """Runs large language models on the GPUs you already own.

Applications call `/v1` (OpenAI's API) with an inference key. Everything here needs an admin key:
`Authorization: Bearer sk-stoker-…`; `stoker up` leaves the first one in its data folder, in `admin-key`.
"""


def create_app(context: ApiContext) -> ASGIApp:
    """The whole application on `context`."""
    pool = Pool()
    openai = OpenAIApp(
        routes=context.routes,
        authenticate=context.keyring.principal,
        pool=pool,
        metrics=Metrics(context.registry, time.monotonic),
    )
    return beside(openai, identified(limited(head_as_get(_management(context, pool)))))


def _management(context: ApiContext, pool: Pool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await context.keyring.refresh()
        await context.routes.refresh()
        tasks = [asyncio.create_task(context.keyring.run()), asyncio.create_task(context.routes.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await context.agents.aclose()
            await pool.aclose()

    app = FastAPI(
        title="Stoker",
        version=VERSION,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.context = context
    errors.install(app)
    Gauge("stoker_build_info", "Which Stoker this is", ["version"], registry=context.registry).labels(VERSION).set(1)
    context.registry.register(EstimateErrors(context.routes.instances))
    v1 = APIRouter(prefix="/api/v1")
    for module in (deployments, estimates, instances, workers, keys):
        v1.include_router(module.router)
    app.include_router(v1)
    app.include_router(health.router)
    app.openapi = truthful(app)  # type: ignore[method-assign]  # FastAPI's documented way to change it
    return app
