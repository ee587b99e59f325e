"""Heartbeats at a steady pace beside an activity's own work."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from temporalio import activity

from stoker.domain.base import Value

BEAT_SECONDS = 2.0
"""Cheap: the SDK throttles what it sends, so this only bounds how old the last details can be."""


@asynccontextmanager
async def beating(details: Callable[[], Value | None]) -> AsyncIterator[None]:
    """Heartbeats with the current details until the block ends."""

    async def beat() -> None:
        while True:
            activity.heartbeat(details())
            await asyncio.sleep(BEAT_SECONDS)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
