"""The door as an ASGI app, without a server: what servers other than uvicorn may do."""

import asyncio
import json
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api.openai.auth import Principal
from api.openai.call import Message
from api.openai.metering import Metrics
from api.openai.routes import OpenAIApp
from api.openai.upstream import Pool
from tests.api.openai.serving import Routes, model
from tests.fakes.engine import STREAM_HEAD, Endless, FakeEngine, Script, Send, answer, chunk, delta

pytestmark = pytest.mark.anyio


class Client:
    """A server's side of one request: what it sends in, and what it was told."""

    def __init__(self, *parts: bytes, gone: bool = False, deaf: bool = False) -> None:
        """`gone`: it disconnects after `parts`. `deaf`: sending raises OSError, as ASGI has it for a client gone."""
        self.messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        self.messages.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b""})
        self.sent: list[Message] = []
        self.deaf = deaf

    async def receive(self) -> Message:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def send(self, message: Message) -> None:
        if self.deaf:
            raise OSError("the client has gone")
        self.sent.append(message)


async def ask(client: Client, *addresses: tuple[str, int], scope: dict[str, Any] | None = None) -> CollectorRegistry:
    """One request to the app."""
    pool, registry = Pool(), CollectorRegistry()
    app = OpenAIApp(Routes(model(*addresses)), lambda _: Principal(), pool, Metrics(registry, time.monotonic))
    http = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    try:
        async with asyncio.timeout(10):
            await app(scope or http, client.receive, client.send)
    finally:
        await pool.aclose()
    return registry


BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()


async def test_a_body_in_pieces_is_put_together() -> None:
    async with FakeEngine([Send(answer(b"{}"))]) as engine:
        client = Client(BODY[:5], b"", BODY[5:])
        await ask(client, engine.address)
        assert engine.requests[0].body == BODY
        assert [message["type"] for message in client.sent] == ["http.response.start", "http.response.body"]
        assert client.sent[1] == {"type": "http.response.body", "body": b"{}", "more_body": False}


async def test_a_client_that_goes_before_its_request_is_whole_is_answered_nothing() -> None:
    client = Client(BODY[:5], gone=True)
    registry = await ask(client)
    assert client.sent == []
    assert all(not family.samples for family in registry.collect())


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ([Send(STREAM_HEAD), Endless(chunk(delta("hi")))], "gone"),
        ([Send(answer(b"{}"))], "gone"),
        ([Send(answer(b"", "500 No"))], "5xx"),  # whoever reads it
    ],
)
async def test_a_server_that_raises_for_a_client_gone(script: Script, outcome: str) -> None:
    async with FakeEngine(script) as engine:
        registry = await ask(Client(BODY, deaf=True), engine.address)
        assert registry.get_sample_value("stoker_requests_total", {"model": "m", "status_class": outcome}) == 1
        assert registry.get_sample_value("stoker_requests_running", {"model": "m"}) == 0


async def test_a_client_that_goes_before_it_is_refused_troubles_nobody() -> None:
    await ask(Client(b"{", deaf=True))
    await ask(Client(deaf=True), scope={"type": "http", "method": "GET", "path": "/v1/nowhere", "headers": []})


async def test_websockets_are_turned_away() -> None:
    client = Client()
    await ask(client, scope={"type": "websocket", "path": "/v1/realtime", "headers": []})
    assert client.sent == [{"type": "websocket.close", "code": 1000}]


async def test_a_fault_after_the_beginning_is_left_to_the_server() -> None:
    class Confused(Client):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message["type"] == "http.response.body":
                raise ZeroDivisionError

    async with FakeEngine([Send(answer(b"{}"))]) as engine:
        client = Confused(BODY)
        with pytest.raises(ZeroDivisionError):
            await ask(client, engine.address)
        assert len(client.sent) == 2
