"""The ASGI application: management routes by FastAPI, and beside it, with none of its layers in the way, `/v1`."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import APIRouter, FastAPI
from prometheus_client import Gauge
from starlette.types import ASGIApp

from api import errors
from api.audit.recording import audited
from api.cluster_metrics import ClusterMetrics
from api.demand_report import DemandReport
from api.deployment_wakes import DeploymentWakes
from api.deps import ApiContext
from api.description import truthful
from api.estimate_errors import EstimateErrors
from api.limits.refusal_metrics import RefusalMetrics
from api.limits.upkeep import Upkeep
from api.middleware import head_as_get, identified, limited
from api.openai.admission import OPEN_GATE
from api.openai.metering import Metrics
from api.openai.proxy import ProxyLimits
from api.openai.routes import OpenAIApp, beside
from api.openai.upstream import Pool
from api.routes import (
    audit,
    certificates,
    deployments,
    estimates,
    files,
    health,
    instances,
    join_tokens,
    keys,
    model_routes,
    placements,
    revisions,
    usage,
    workers,
)
from api.usage.retention import forget_for_ever
from api.web import addresses
from api.web.app import web_router
from stoker.storage.usage import tokens_since
from stoker.version import VERSION

RECORDED_WITHIN_SECONDS = 3.0
"""How long a stopping process waits for the database to take the last records of usage, which then stay on disk, and
the last entries of the audit log, which are in the process's log."""

DESCRIPTION = """Runs large language models on the GPUs you already own.

Applications call `/v1` (OpenAI's API) with a key of the role user. Everything here but `usage` needs an admin key:
`Authorization: Bearer sk-stoker-…`; `stoker up` leaves the first one in its data folder, in `admin-key`.
"""


def create_app(context: ApiContext) -> ASGIApp:
    """The whole application on `context`."""
    pool, spans = Pool(context.mesh), context.spans
    metrics_of = Metrics if spans is None else spans.metrics
    openai = OpenAIApp(
        routes=context.routes,
        authenticate=context.keyring.principal,
        pool=pool,
        metrics=metrics_of(context.registry, time.monotonic, context.recorder),
        gate=context.gate or OPEN_GATE,
        processes=context.processes,
        limits=ProxyLimits(wake_time=context.wake_timeout),
        wakes=DeploymentWakes(context.temporal, context.database, context.clock),
    )
    management = audited(limited(head_as_get(_management(context, pool, openai))), context.audit.record, context.clock)
    if spans is None:
        return beside(openai, identified(management))
    return beside(spans.of_models(openai), identified(spans.of_management(management)))


def _management(context: ApiContext, pool: Pool, openai: OpenAIApp) -> FastAPI:
    demand = DemandReport(context.database, context.routes, openai.asked, context.clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await context.keyring.refresh()
        await context.routes.refresh()
        upkeep = _upkeep(context)
        if upkeep is not None:
            await upkeep.refresh()
        runs = [context.keyring.run(), context.routes.run(), context.absence.run(), context.cluster.run(), demand.run()]
        runs += [connections.watch_revoked() for connections in (pool, context.agent_connections)]
        runs += [context.metrics.run(), forget_for_ever(context.database, context.clock, context.usage_days)]
        if upkeep is not None:
            runs.append(upkeep.run())
        if context.recorder is not None:
            context.recorder.start()
        context.audit.start()
        tasks = [asyncio.create_task(run) for run in runs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await context.agents.aclose()
            await pool.aclose()
            await demand.close()
            await asyncio.to_thread(context.audit.close, RECORDED_WITHIN_SECONDS)
            if context.recorder is not None:
                await asyncio.to_thread(context.recorder.close, RECORDED_WITHIN_SECONDS)
            await asyncio.to_thread(context.metrics.close)

    app = FastAPI(
        title="Stoker",
        version=VERSION,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page runs scripts of another host; ours is in api/web
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.context, app.state.openai = context, openai
    errors.install(app)
    addresses.install(app)
    view = context.view_registry
    Gauge("stoker_build_info", "Which Stoker this is", ["version"], registry=view).labels(VERSION).set(1)
    routes = context.routes
    view.register(EstimateErrors(routes.instances))
    view.register(ClusterMetrics(routes.deployments, routes.instances, context.cluster.current, context.clock))
    context.registry.register(context.audit)
    if context.recorder is not None:
        context.registry.register(context.recorder)
    if context.gate is not None:
        context.registry.register(RefusalMetrics(context.gate))
    v1 = APIRouter(prefix="/api/v1")
    for module in (
        deployments,
        revisions,
        estimates,
        placements,
        instances,
        workers,
        files,
        model_routes,
        certificates,
        join_tokens,
        keys,
        usage,
        audit,
    ):
        v1.include_router(module.router)
    v1.include_router(health.alarms)
    app.include_router(v1)
    app.include_router(health.router)
    app.include_router(web_router())
    app.openapi = truthful(app)  # type: ignore[method-assign]  # FastAPI's documented way to change it
    return app


def _upkeep(context: ApiContext) -> Upkeep | None:
    """What keeps the limits' counters true; None where nothing is counted."""
    if context.gate is None:
        return None

    def month_tokens(since: datetime) -> Mapping[str, int]:
        with context.database.read() as session:
            return tokens_since(session, since)

    return Upkeep(context.gate, context.keyring, month_tokens, context.clock)
