"""`/live`: what has changed is told, to those who may know, while they are signed in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.deps import ApiContext
from api.web.live import LOOK_EVERY_SECONDS, Looks, Topic
from stoker.domain.keys import Role
from stoker.storage.keys import Keys
from tests.api.serving import Api
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
    assert await asyncio.gather(*(looks.of(context, "thing/a") for _ in range(5))) == [1] * 5
    assert await looks.of(context, "thing/b") == 2
    now += LOOK_EVERY_SECONDS
    assert await looks.of(context, "thing/a") == 3
    assert asked == ["a", "b", "a"]


async def test_what_cannot_be_told_is_what_it_was(lone_api: Api) -> None:
    answers: list[object] = ["as it is", ValueError("a row of another version")]

    async def look(_: ApiContext, __: str) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    now = 0.0
    looks = Looks({"thing": Topic(look)}, lambda: now)
    assert await looks.of(lone_api.context, "thing") == "as it is"
    now += LOOK_EVERY_SECONDS
    assert await looks.of(lone_api.context, "thing") == "as it is"
