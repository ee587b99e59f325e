"""Tells an engine that is frozen from one that is busy.

A frozen peer of an RPC group freezes its main server for ever, and /health still answers 200 then; /metrics answers,
too, and shows requests in work while no batch is computed any more. A prompt's batch may take long, though: what has
once ended by itself is no reason to kill an engine that takes four times as long. Before any has ended, nobody knows:
an engine that was ended for it is given twice the time in its next life (`ProcessRecord.patience`).
"""

import asyncio
from collections.abc import Sequence

import httpx
import structlog

from stoker.domain.base import Value
from worker_agent.engine_metrics import EngineMetrics, EngineWork
from worker_agent.records import ProcessExit, ProcessRecord, file_stem

log = structlog.get_logger()

LOOK_SECONDS = 2.0
_PATIENCE = 4.0  # times the longest pause that ended by itself
_MOST_BETWEEN_LOOKS = 3.0  # looks: what passed beyond that, this agent did not run, and so perhaps the engine did not


class Stall(Value):
    """What is known of an engine's pauses, in seconds that were watched."""

    decodes: int | None = None  # at the last look; None: there was none, or nothing was in work
    still: float = 0.0  # since it last moved, or began to have work
    longest: float = 0.0  # the longest pause that ended by itself
    silent: float = 0.0  # since it last answered


def look(before: Stall, work: EngineWork | None, seconds: float) -> Stall:
    """What is known after a look, `seconds` after the one before. Pure. `work`: None when the engine did not answer."""
    if work is None:
        return before.model_copy(update={"silent": before.silent + seconds})
    if work.processing == 0 or work.decodes is None:
        return Stall(longest=before.longest)
    if before.decodes is None:
        return Stall(decodes=work.decodes, longest=before.longest)
    pause = before.still + before.silent + seconds
    if work.decodes != before.decodes:
        return Stall(decodes=work.decodes, longest=max(before.longest, pause))
    return before.model_copy(update={"still": pause, "silent": 0.0})


def verdict(stall: Stall, work: EngineWork | None, timeout: float) -> str:
    """Why the engine is frozen; empty: it is not, as far as is known. Pure. `timeout`: seconds, at least."""
    limit = max(timeout, _PATIENCE * stall.longest)
    if work is None:
        return f"frozen: no answer to /metrics for {stall.silent:.0f} s" if stall.silent > limit else ""
    if stall.still <= limit:
        return ""
    requests = "1 request" if work.processing == 1 else f"{work.processing} requests"
    return f"frozen: {requests} in work and no token for {stall.still:.0f} s"


class StallWatch:
    """Stays with a main server until it is frozen. A `Guard`."""

    def __init__(self, metrics: EngineMetrics, timeout: float, look_seconds: float = LOOK_SECONDS) -> None:
        """`timeout`: seconds without progress, at least, until an engine counts as frozen."""
        self._metrics, self._timeout, self._look_seconds = metrics, timeout, look_seconds

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """See `Guard`."""
        loop = asyncio.get_running_loop()
        stall, looked_at, said = Stall(), loop.time(), False
        while True:
            await asyncio.sleep(self._look_seconds)
            work: EngineWork | None = None
            try:
                work = await self._metrics.read(record.key, record.port)
            except httpx.TransportError:
                pass  # no answer: counted
            except (httpx.HTTPError, ValueError) as error:  # an answer, but nothing to be seen in it
                if not said:
                    said = True
                    log.warning("stall_not_watched", process=file_stem(record.key), error=str(error))
                work = EngineWork(processing=0, deferred=0)
            now = loop.time()
            seconds = min(now - looked_at, _MOST_BETWEEN_LOOKS * max(self._look_seconds, LOOK_SECONDS))
            stall, looked_at = look(stall, work, seconds), now
            if cause := verdict(stall, work, self._timeout * record.patience):
                return ProcessExit(cause=cause + _group(record.members), frozen=True)


def _group(members: Sequence[str]) -> str:
    return f"; the workers of its group are {', '.join(members)}" if len(members) > 1 else ""
