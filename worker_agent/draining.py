"""Waits until a main server has no requests left."""

import asyncio
import contextlib

import httpx
import structlog

from worker_agent.engine_metrics import EngineMetrics
from worker_agent.processes import EngineProcess

log = structlog.get_logger()

_POLL_SECONDS = 0.1


async def until_idle(process: EngineProcess, metrics: EngineMetrics, settle_seconds: float) -> None:
    """Returns when the process answers no request, `settle_seconds` from now at the earliest, or has ended."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.ended.wait(), settle_seconds)
    said = ""
    while not process.ended.is_set():
        try:
            work = await metrics.read(process.key, process.status.port)
            if work.processing + work.deferred == 0:
                return
        except (httpx.HTTPError, ValueError) as error:  # too busy to answer: asked again, until the deadline
            if said != repr(error):
                said = repr(error)
                log.warning("drain_cannot_see", process=process.log_file.stem, error=said)
        await asyncio.sleep(_POLL_SECONDS)
