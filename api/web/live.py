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
from api.web.session import SIGNED_OUT, PageDep, Visitor, token_of, visitor_of
from stoker.domain.keys import Role

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 0.5
REST_SECONDS = 1.0
"""After a change, for the page to be fetched anew: of a large fleet something changes all the time."""
PING_EVERY_SECONDS = 15.0
_MOST_TOPICS = 10
LONGEST_PAUSE_SECONDS = 5.0
_SHARE_OF_TIME = 10
"""Looks that take long are made more seldom: they take a tenth of the time, as far as LONGEST_PAUSE_SECONDS allows."""

Look = Callable[[ApiContext, str], Awaitable[object]]


class Topic(NamedTuple):
    """Something that pages show and that changes."""

    look: Look  # what it looks like now, for the argument behind the topic's name: what differs when it has changed
    role: Role = Role.ADMIN  # the least that may listen


class Seen(NamedTuple):
    """What a topic looked like."""

    at: float
    state: object
    seconds: float = 0.0  # that the look itself took
    stale: bool = False  # it could not be looked at: this is what it looked like before


class Looks:
    """What topics look like. However many pages listen, each topic is looked at once in LOOK_EVERY_SECONDS."""

    def __init__(self, topics: Mapping[str, Topic], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._topics, self._monotonic = topics, monotonic
        self._seen: dict[str, Seen] = {}
        self._looking = asyncio.Lock()

    def check(self, topic: str, visitor: Visitor) -> None:
        """Raises ProblemError for what is no topic, or not the visitor's."""
        known = self._topics.get(topic.partition("/")[0])
        if known is None:
            raise ProblemError("not_found", f"there is no topic {topic[:100]!r}: {', '.join(self._topics)}")
        if known.role is Role.ADMIN and not visitor.is_admin:
            raise ProblemError("forbidden", f"the topic {topic!r} needs admin")

    async def of(self, context: ApiContext, topic: str) -> Seen:
        """What it looks like. While that cannot be told (the database is away), what it looked like before."""
        async with self._looking:
            begun = self._monotonic()
            seen = self._seen.get(topic)
            if seen is not None and begun - seen.at < LOOK_EVERY_SECONDS / 2:
                return seen
            name, _, argument = topic.partition("/")
            stale = False
            try:
                state = await self._topics[name].look(context, argument)
            except (SQLAlchemyError, ProblemError, ValueError, TypeError) as error:  # away, or a row of another version
                if seen is None or not seen.stale:  # once: it is tried again twice a second
                    log.warning("live_topic_not_read", topic=topic, error=str(error))
                state, stale = seen.state if seen is not None else None, True
            else:
                if seen is not None and seen.stale:
                    log.info("live_topic_read_again", topic=topic)
            now = self._monotonic()
            self._seen = {key: one for key, one in self._seen.items() if now - one.at < PING_EVERY_SECONDS}
            self._seen[topic] = Seen(now, state, now - begun, stale)
            return self._seen[topic]


def live_router(topics: Mapping[str, Topic]) -> APIRouter:
    """The route, for these topics by name."""
    looks = Looks(topics)
    router = page_router()

    @router.get("/live")
    async def get_live(
        request: Request, context: ContextDep, visitor: PageDep, topics: Annotated[str, Query(max_length=1000)]
    ) -> Response:
        """Streams a `changed` event with each topic's name, at first of all; `stale` when it cannot be told what has
        changed, and `fresh` when it can again; `signed-out` when the session ends."""
        asked = list(dict.fromkeys(topics.split(",")))[:_MOST_TOPICS]
        for topic in asked:
            looks.check(topic, visitor)
        token = token_of(request)
        events = live_events(context, looks, asked, lambda: visitor_of(context, token) is not None)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    return router


async def live_events(
    context: ApiContext, looks: Looks, topics: list[str], signed_in: Callable[[], bool]
) -> AsyncIterator[str]:
    """What /live streams, until the process stops or nobody is signed in any more."""
    before: dict[str, object] = {}
    stale = False
    loop = asyncio.get_running_loop()
    said_at = loop.time()
    while not context.stopping.is_set():
        if not signed_in():
            yield SIGNED_OUT
            return
        begun = loop.time()
        looking = asyncio.gather(*(looks.of(context, topic) for topic in topics))
        try:
            # The database may take its time: meanwhile nobody is left without a word.
            while not (await asyncio.wait((looking,), timeout=LOOK_EVERY_SECONDS))[0]:
                if context.stopping.is_set():
                    return
                if not stale and loop.time() - begun >= LONGEST_PAUSE_SECONDS:
                    stale = True
                    yield "event: stale\ndata: \n\n"
                if loop.time() - said_at >= PING_EVERY_SECONDS:
                    said_at = loop.time()
                    yield ": ping\n\n"
            seen = dict(zip(topics, looking.result(), strict=True))
        finally:
            looking.cancel()
        # At first all: the page was made a moment ago, and what changed since would be lost.
        changed = [topic for topic in topics if topic not in before or before[topic] != seen[topic].state]
        events = [f"event: changed\ndata: {topic.partition('/')[0]}\n\n" for topic in changed]
        if stale != any(one.stale for one in seen.values()):
            stale = not stale
            events.append(f"event: {'stale' if stale else 'fresh'}\ndata: \n\n")
        if not events and loop.time() - said_at >= PING_EVERY_SECONDS:
            events = [": ping\n\n"]
        for event in events:
            said_at = loop.time()
            yield event
        before = {topic: one.state for topic, one in seen.items()}
        pause = min(_SHARE_OF_TIME * sum(one.seconds for one in seen.values()), LONGEST_PAUSE_SECONDS)
        until = loop.time() + max(pause, REST_SECONDS if changed else LOOK_EVERY_SECONDS)
        while not context.stopping.is_set() and (left := until - loop.time()) > 0:  # noqa: ASYNC110  (a thread's event)
            await asyncio.sleep(min(left, LOOK_EVERY_SECONDS))
