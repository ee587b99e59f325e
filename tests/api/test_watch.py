"""Watches: what is sent, when nothing is, and what is left when the client has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event

import httpx
import pytest
import structlog
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError

from api.watch import watch_response
from tests.api.serving import listening

pytestmark = pytest.mark.anyio


class Item(BaseModel):
    """Something to watch."""

    value: int


class Source:
    """What a watch reads, as a test sets it."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.error: Exception | None = None
        self.failed = asyncio.Event()
        self.left = asyncio.Event()
        self.stopping = Event()

    async def read(self) -> list[tuple[str, BaseModel]]:
        """One look."""
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self.left.set())
        if self.error is not None:
            self.failed.set()
            raise self.error
        return list(self.items.items())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.watch.LOOK_EVERY_SECONDS", 0.005)


@asynccontextmanager
async def served(source: Source) -> AsyncIterator[str]:
    """The URL of a watch over `source`."""
    app = FastAPI()

    @app.get("/", response_model=None)
    async def watch() -> StreamingResponse:
        return watch_response(source.stopping, source.read)

    async with asyncio.timeout(20), listening(app) as port:
        yield f"http://127.0.0.1:{port}/"


@asynccontextmanager
async def lines_of(url: str) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of the watch there; leaving the block is the client leaving."""
    async with httpx.AsyncClient(trust_env=False) as client, client.stream("GET", url) as response:
        assert response.headers["cache-control"] == "no-cache"
        yield (line async for line in response.aiter_lines() if line)


async def test_each_change_is_sent_once() -> None:
    source = Source()
    source.items = {"a": Item(value=1), "b": Item(value=2)}
    async with served(source) as url, lines_of(url) as lines:
        assert [await anext(lines) for _ in range(4)] == [
            "event: added",
            'data: {"value":1}',
            "event: added",
            'data: {"value":2}',
        ]
        source.items = {"a": Item(value=9), "c": Item(value=3)}
        assert [await anext(lines) for _ in range(6)] == [
            "event: modified",
            'data: {"value":9}',
            "event: added",
            'data: {"value":3}',
            "event: deleted",
            'data: {"value":2}',
        ]


async def test_a_quiet_watch_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.watch.PING_EVERY_SECONDS", 0.01)
    async with served(Source()) as url, lines_of(url) as lines:
        assert [await anext(lines) for _ in range(2)] == [": ping", ": ping"]


@pytest.mark.parametrize(
    "error", [OperationalError("select", {}, Exception("away")), ValueError("a row of another version")]
)
async def test_a_watch_outlives_a_database_that_is_away(error: Exception) -> None:
    source = Source()
    source.items = {"a": Item(value=1)}
    with structlog.testing.capture_logs() as logged:
        async with served(source) as url, lines_of(url) as lines:
            assert [await anext(lines) for _ in range(2)] == ["event: added", 'data: {"value":1}']
            source.error = error
            await source.failed.wait()
            source.items, source.error = {"a": Item(value=2)}, None
            assert [await anext(lines) for _ in range(2)] == ["event: modified", 'data: {"value":2}']
    assert {entry["event"] for entry in logged} == {"watch_not_refreshed"}


async def test_nothing_looks_any_more_when_the_client_has_gone() -> None:
    source = Source()
    source.items = {"a": Item(value=1)}
    async with served(source) as url:
        async with lines_of(url) as lines:
            await anext(lines)
            assert not source.left.is_set()
        await source.left.wait()


async def test_a_watch_ends_when_its_process_is_to_stop() -> None:
    source = Source()
    source.items["a"] = Item(value=1)
    async with served(source) as url, httpx.AsyncClient() as client, client.stream("GET", url) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "event: added"
        source.stopping.set()
        assert [line async for line in lines] == ['data: {"value":1}', ""]
