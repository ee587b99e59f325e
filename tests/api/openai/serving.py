"""The door on a port of its own, served by uvicorn in this event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from prometheus_client import CollectorRegistry
from uvicorn.server import ServerState

from api.http_protocol import HttpProtocol
from api.openai.admission import OPEN_GATE
from api.openai.admission import Gate as AdmissionGate
from api.openai.auth import Principal
from api.openai.call import Receive, Scope, Send
from api.openai.metering import Metrics, Recorder
from api.openai.proxy import ProxyLimits
from api.openai.router import ModelRoute, Replica, RouteTable
from api.openai.routes import OpenAIApp
from api.openai.upstream import Pool
from api.openai.waking import NOBODY_WAKES, Wakes
from stoker.domain.model_routes import RouteSpec

KEY = "sk-stoker-test"


class Routes:
    """A RouteSource whose next table is handed out by `refresh`."""

    def __init__(self, *routes: ModelRoute, names: Iterable[RouteSpec] = ()) -> None:
        named = {spec.name: spec for spec in names}
        self.table = RouteTable(models={route.name: route for route in routes}, routes=named)
        self.next: RouteTable | None = None
        self.refreshes = 0
        self.hangs = False

    def current(self) -> RouteTable:
        return self.table

    async def refresh(self) -> RouteTable:
        self.refreshes += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.next is not None:
            self.table = self.next
        return self.table

    def later(self, *routes: ModelRoute) -> None:
        """What the next refresh finds."""
        self.next = RouteTable(models={route.name: route for route in routes})


def model(*addresses: tuple[str, int], name: str = "m", **fields: Any) -> ModelRoute:
    """A model that the engines at `addresses` answer for."""
    replicas = tuple(
        Replica(instance_id=f"{name}-{index}", host=host, port=port, api_key=f"engine-key-{index}", slots=4)
        for index, (host, port) in enumerate(addresses)
    )
    return ModelRoute(name=name, created=1_700_000_000, replicas=replicas, **fields)


@dataclass
class Door:
    """The running door, and what a test looks at."""

    url: str
    client: httpx.AsyncClient
    app: OpenAIApp
    pool: Pool
    registry: CollectorRegistry
    routes: Routes

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one series of metrics."""
        return self.registry.get_sample_value(name, labels)

    async def chat(self, **fields: Any) -> httpx.Response:
        """Asks the model `m` something that begins no conversation: any engine may answer."""
        body = {"model": "m", "messages": [{"role": "user"}]} | fields
        return await self.client.post("/v1/chat/completions", json=body)

    async def until_idle(self) -> None:
        """Waits until no request is in work any more."""
        await until(lambda: not self.metric("stoker_requests_running", model="m"))


async def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Waits for what has no event to wait for."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(app: Callable[[Scope, Receive, Send], Any]) -> AsyncIterator[str]:
    """Serves an ASGI app with uvicorn's protocol, without the process around it; yields the URL.

    At the end every client is cut off, and no request may outlive that.
    """
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, http=HttpProtocol)
    config.load()
    state = ServerState()

    def protocol() -> asyncio.Protocol:
        return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        for connection in tuple(state.connections):
            connection.transport.abort()
        await until(lambda: not state.tasks and not state.connections)
        await server.wait_closed()


async def say(url: str, request: bytes) -> bytes:
    """What the server says to these bytes until it has nothing more to say."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return head + await reader.readexactly(int(length))
    finally:
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def open_door(
    routes: Routes | Iterable[ModelRoute],
    *,
    limits: ProxyLimits | None = None,
    gate: AdmissionGate = OPEN_GATE,
    principal: Principal | None = None,
    recorder: Recorder | None = None,
    wakes: Wakes = NOBODY_WAKES,
) -> AsyncIterator[Door]:
    """The door with these models, opened by KEY, which is `principal`'s."""
    source = routes if isinstance(routes, Routes) else Routes(*routes)
    pool, registry = Pool(), CollectorRegistry()
    metrics = Metrics(registry, time.monotonic, recorder)
    owner = principal or Principal()
    app = OpenAIApp(
        source, lambda key: owner if key == KEY else None, pool, metrics, limits=limits, gate=gate, wakes=wakes
    )
    async with serving(app) as url:
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=30,
            trust_env=False,
            verify=False,  # noqa: S501 - there is no TLS here, and setting it up takes 20 ms
        ) as client:
            yield Door(url, client, app, pool, registry, source)
    await pool.aclose()
