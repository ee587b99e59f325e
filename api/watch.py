"""`?watch=true`: what there is and then every change, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from threading import Event

import structlog
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.25
PING_EVERY_SECONDS = 15.0


def watch_response(
    stopping: Event, read: Callable[[], Awaitable[Sequence[tuple[str, BaseModel]]]]
) -> StreamingResponse:
    """Streams `added`, `modified` and `deleted` events for what `read` returns, by id, until the client leaves.

    Ends once `stopping` is set: its client asks again, and finds another process.
    """
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_events(stopping, read), media_type="text/event-stream", headers=headers)


async def _events(
    stopping: Event, read: Callable[[], Awaitable[Sequence[tuple[str, BaseModel]]]]
) -> AsyncIterator[str]:
    seen: dict[str, str] = {}
    quiet = 0.0
    while not stopping.is_set():
        try:
            now = {item_id: item.model_dump_json() for item_id, item in await read()}
        except (SQLAlchemyError, ValueError, TypeError) as error:  # away, or a row that this version cannot read
            log.error("watch_not_refreshed", error=str(error))
            now = seen
        events = [
            (("modified" if item_id in seen else "added"), text)
            for item_id, text in now.items()
            if seen.get(item_id) != text
        ] + [("deleted", text) for item_id, text in seen.items() if item_id not in now]
        for event, text in events:
            yield f"event: {event}\ndata: {text}\n\n"
        seen, quiet = now, 0.0 if events else quiet + LOOK_EVERY_SECONDS
        if quiet >= PING_EVERY_SECONDS:
            yield ": ping\n\n"
            quiet = 0.0
        await asyncio.sleep(LOOK_EVERY_SECONDS)
