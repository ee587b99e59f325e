"""`/live`: what has changed is told, to those who may know, while they are signed in."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Event

import pytest
from structlog.testing import capture_logs

from api.deps import ApiContext
from api.web import live
from api.web.live import LOOK_EVERY_SECONDS, Looks, Topic, live_events
from api.web.session import SIGNED_OUT
from stoker.domain.keys import Role
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.api.serving import Api, away
from tests.api.web.browsing import Browser, new_browser
from tests.builders import make_worker

pytestmark = pytest.mark.anyio

WITHIN_SECONDS = 20.0


@asynccontextmanager
async def listening_to(browser: Browser, topics: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
    """The events, as (kind, data)."""
    async with browser.client.stream("GET", "/live", params={"topics": topics}) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response.aiter_lines())


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    kind = ""
    async for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, value


async def test_changes_are_told(lone_api: Api, browser: Browser) -> None:
    async with asyncio.timeout(WITHIN_SECONDS), listening_to(browser, "fleet,worker/newcomer") as events:
        assert [await anext(events), await anext(events)] == [("changed", "fleet"), ("changed", "worker")]
    async with asyncio.timeout(WITHIN_SECONDS), listening_to(browser, "fleet") as events:
        assert await anext(events) == ("changed", "fleet")
        assert (await lone_api.join(make_worker(name="newcomer"))).status_code == 200
        assert await anext(events) == ("changed", "fleet")
        assert (await lone_api.admin.post("/api/v1/workers/newcomer/cordon")).status_code == 200
        assert await anext(events) == ("changed", "fleet")


async def test_it_ends_with_the_session(lone_api: Api) -> None:
    key_id, key = lone_api.key(Role.ADMIN)
    await lone_api.context.keyring.refresh()
    browser = new_browser(lone_api)
    await browser.sign_in(key)
    async with asyncio.timeout(WITHIN_SECONDS), listening_to(browser, "fleet") as events:
        assert await anext(events) == ("changed", "fleet")
        await lone_api.context.write(lambda session, now: Keys(session, now).revoke(key_id))
        assert [event async for event in events][-1][0] == "signed-out"
    await browser.client.aclose()


async def test_who_may_listen(browser: Browser, users_browser: Browser, strangers_browser: Browser) -> None:
    assert (await users_browser.get("/live?topics=fleet")).status_code == 403
    assert (await browser.get("/live?topics=weather")).status_code == 404
    assert (await strangers_browser.get("/live?topics=fleet")).url.path == "/sign-in"


async def test_many_listeners_are_one_look(lone_api: Api) -> None:
    asked: list[str] = []

    async def look(_: ApiContext, argument: str) -> object:
        asked.append(argument)
        return len(asked)

    now = 0.0
    looks = Looks({"thing": Topic(look)}, lambda: now)
    context = lone_api.context
    assert [one.state for one in await asyncio.gather(*(looks.of(context, "thing/a") for _ in range(5)))] == [1] * 5
    assert (await looks.of(context, "thing/b")).state == 2
    now += LOOK_EVERY_SECONDS
    assert (await looks.of(context, "thing/a")).state == 3
    assert asked == ["a", "b", "a"]


async def test_what_cannot_be_told_is_what_it_was(lone_api: Api) -> None:
    answers: list[object] = ["as it is", *(ValueError("a row of another version") for _ in range(3)), "as it is now"]

    async def look(_: ApiContext, __: str) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    now = 0.0
    looks = Looks({"thing": Topic(look)}, lambda: now)
    seen = []
    with capture_logs() as logs:
        for _ in range(5):
            one = await looks.of(lone_api.context, "thing")
            seen.append((one.state, one.stale))
            now += LOOK_EVERY_SECONDS
    assert seen == [("as it is", False), *[("as it is", True)] * 3, ("as it is now", False)]
    assert [line["event"] for line in logs] == ["live_topic_not_read", "live_topic_read_again"], "each once"


async def test_a_look_is_timed_without_the_wait_for_others(lone_api: Api) -> None:
    now = 0.0

    async def look(_: ApiContext, argument: str) -> object:
        nonlocal now
        now += float(argument)
        await asyncio.sleep(0)
        return argument

    looks = Looks({"thing": Topic(look)}, lambda: now)
    slow, quick = await asyncio.gather(*(looks.of(lone_api.context, f"thing/{one}") for one in ("30", "1")))
    assert (slow.seconds, quick.seconds) == (30.0, 1.0)


async def test_that_nothing_can_be_told_is_told(lone_api: Api, browser: Browser, database: Database) -> None:
    async with asyncio.timeout(WITHIN_SECONDS), listening_to(browser, "fleet") as events:
        assert await anext(events) == ("changed", "fleet")
        with away(database):
            assert await anext(events) == ("stale", "")
        assert await anext(events) == ("fresh", "")


async def test_a_look_that_hangs_leaves_nobody_without_a_word(lone_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LONGEST_PAUSE_SECONDS", "PING_EVERY_SECONDS", "LOOK_EVERY_SECONDS"):
        monkeypatch.setattr(live, name, 0.01)

    async def look(_: ApiContext, __: str) -> object:
        return await asyncio.get_running_loop().create_future()

    context = replace(lone_api.context, stopping=Event())
    events = live_events(context, Looks({"thing": Topic(look)}), ["thing"], lambda: True)
    async with asyncio.timeout(WITHIN_SECONDS):
        assert {await anext(events), await anext(events)} == {"event: stale\ndata: \n\n", ": ping\n\n"}
        context.stopping.set()
        assert [event async for event in events if event != ": ping\n\n"] == []


async def test_after_a_slow_look_the_pause_is_short(lone_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(live, "REST_SECONDS", 0.01)
    ticks = itertools.count(step=1000)

    async def look(_: ApiContext, __: str) -> object:
        return object()

    looks = Looks({"thing": Topic(look)}, lambda: float(next(ticks)))
    events = live_events(lone_api.context, looks, ["thing"], lambda: True)
    async with asyncio.timeout(WITHIN_SECONDS):
        assert [await anext(events), await anext(events)] == ["event: changed\ndata: thing\n\n"] * 2


async def test_who_listens_without_a_session_is_told_so(strangers_browser: Browser) -> None:
    answer = await strangers_browser.get("/live?topics=fleet", accept="text/event-stream")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == SIGNED_OUT
