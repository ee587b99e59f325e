"""`/live`: tells a page, as server-sent events, which of its topics have changed. The page fetches those parts anew."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, NamedTuple

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError

from api.deps import ApiContext, ContextDep
from api.errors import ProblemError
from api.web.route import page_router
from api.web.session import COOKIE, PageDep, Visitor, visitor_of
from stoker.domain.keys import Role

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.5
REST_SECONDS = 1.0
"""After a change, for the page to be fetched anew: of a large fleet something changes all the time."""
PING_EVERY_SECONDS = 15.0
_MOST_TOPICS = 10
_SHARE_OF_TIME = 10
"""Looks that take long are made more seldom: they take a tenth of the time at most."""

Look = Callable[[ApiContext, str], Awaitable[object]]


class Topic(NamedTuple):
    """Something that pages show and that changes."""

    look: Look  # what it looks like now, for the argument behind the topic's name: what differs when it has changed
    role: Role = Role.ADMIN  # the least that may listen


class _Seen(NamedTuple):
    at: float
    state: object


class Looks:
    """What topics look like. However many pages listen, each topic is looked at once in LOOK_EVERY_SECONDS."""

    def __init__(self, topics: Mapping[str, Topic], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._topics, self._monotonic = topics, monotonic
        self._seen: dict[str, _Seen] = {}
        self._looking = asyncio.Lock()

    def check(self, topic: str, visitor: Visitor) -> None:
        """Raises ProblemError for what is no topic, or not the visitor's."""
        known = self._topics.get(topic.partition("/")[0])
        if known is None:
            raise ProblemError("not_found", f"there is no topic {topic[:100]!r}: {', '.join(self._topics)}")
        if known.role is Role.ADMIN and not visitor.is_admin:
            raise ProblemError("forbidden", f"the topic {topic!r} needs admin")

    async def of(self, context: ApiContext, topic: str) -> object:
        """What it looks like. While that cannot be told (the database is away), what it looked like before."""
        async with self._looking:
            now = self._monotonic()
            seen = self._seen.get(topic)
            if seen is not None and now - seen.at < LOOK_EVERY_SECONDS / 2:
                return seen.state
            name, _, argument = topic.partition("/")
            try:
                state = await self._topics[name].look(context, argument)
            except (SQLAlchemyError, ProblemError, ValueError, TypeError) as error:  # away, or a row of another version
                log.warning("live_topic_not_read", topic=topic, error=str(error))
                state = seen.state if seen is not None else None
            self._seen = {key: one for key, one in self._seen.items() if now - one.at < PING_EVERY_SECONDS}
            self._seen[topic] = _Seen(now, state)
            return state


def live_router(topics: Mapping[str, Topic]) -> APIRouter:
    """The route, for these topics by name."""
    looks = Looks(topics)
    router = page_router()

    @router.get("/live")
    async def get_live(
        request: Request, context: ContextDep, visitor: PageDep, topics: Annotated[str, Query(max_length=1000)]
    ) -> Response:
        """Streams a `changed` event with each topic's name, at first of all; `signed-out` when the session ends."""
        asked = list(dict.fromkeys(topics.split(",")))[:_MOST_TOPICS]
        for topic in asked:
            looks.check(topic, visitor)
        token = request.cookies.get(COOKIE)
        events = _events(context, looks, asked, lambda: visitor_of(context, token) is not None)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return router


async def _events(
    context: ApiContext, looks: Looks, topics: list[str], signed_in: Callable[[], bool]
) -> AsyncIterator[str]:
    before: dict[str, object] = {}
    quiet = 0.0
    loop = asyncio.get_running_loop()
    while not context.stopping.is_set():
        if not signed_in():
            yield "event: signed-out\ndata: \n\n"
            return
        begun = loop.time()
        states = {topic: await looks.of(context, topic) for topic in topics}
        pause = max(LOOK_EVERY_SECONDS, _SHARE_OF_TIME * (loop.time() - begun))
        # At first all: the page was made a moment ago, and what changed since would be lost.
        changed = [topic for topic in topics if topic not in before or before[topic] != states[topic]]
        for topic in changed:
            yield f"event: changed\ndata: {topic.partition('/')[0]}\n\n"
        pause = max(pause, REST_SECONDS) if changed else pause
        before, quiet = states, 0.0 if changed else quiet + pause
        if quiet >= PING_EVERY_SECONDS:
            yield ": ping\n\n"
            quiet = 0.0
        await asyncio.sleep(pause)
