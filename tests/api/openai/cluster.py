"""The door in front of engines that do as they are told."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from api.openai.endpoints import ENDPOINTS
from api.openai.proxy import ProxyLimits
from api.openai.upstream import Pool
from tests.api.openai.serving import Door, model, open_door
from tests.fakes.engine import DONE, SCENARIOS, STREAM_END, STREAM_HEAD, FakeEngine, Script, Send, chunk, delta

OK = SCENARIOS["ok"]
STREAM: Script = [Send(STREAM_HEAD + chunk(delta("hi")) + chunk(DONE) + STREAM_END)]
REFUSING = ("127.0.0.1", 1)  # nobody listens there


@asynccontextmanager
async def cluster(*scripts: Script, limits: ProxyLimits | None = None) -> AsyncIterator[tuple[Door, list[FakeEngine]]]:
    """The door with one model `m`, and an engine for each script."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine(script)) for script in scripts]
        door = await stack.enter_async_context(open_door([model(*(e.address for e in engines))], limits=limits))
        yield door, engines


async def stream_of(door: Door, path: str = "/v1/chat/completions", **fields: Any) -> tuple[httpx.Response, bytes]:
    """A streamed answer, to its end."""
    needed: dict[str, Any] = {"messages": [{"role": "user"}], "prompt": "hi", "input": "hi"}
    [name] = ENDPOINTS[path.removeprefix("/v1")].required
    body = {"model": "m", name: needed[name], "stream": True}
    async with door.client.stream("POST", path, json=body | fields) as response:
        return response, await response.aread()


def error_of(body: bytes) -> dict[str, Any]:
    """The error in a whole answer or in a stream's last event."""
    last = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    content = json.loads(last.partition(b"data: ")[2] or body)
    assert set(content["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = content["error"]
    return error


def is_at_rest(door: Door, *engines: FakeEngine) -> bool:
    """Whether every count is back at nothing."""
    balancer = door.app._proxy.balancer
    return not door.metric("stoker_requests_running", model="m") and not any(
        balancer.in_flight(engine.address) for engine in engines
    )


async def fetch(pool: Pool, engine: FakeEngine, body: bytes = b"{}", **options: Any) -> bytes:
    """The whole answer to a request that goes straight to an engine."""
    exchange = pool.exchange(engine.address, "POST", "/v1/x", body=body, **options)
    await exchange.start()
    return await exchange.read_all(1 << 30)
