"""One connection to a server that speaks our HTTP/1.1 in uvicorn's hands, and small applications behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from api.http_protocol import HttpProtocol
from tests.api.openai.serving import until

App = Callable[[Any, Any, Any], Awaitable[None]]


async def whole_body(receive: Any) -> bytes:
    """What the client sent."""
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body, more = body + message["body"], message["more_body"]
    return body


async def reply(send: Any, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    """A whole answer of a known length."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was asked."""
    body = await whole_body(receive)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    asked = [scope["method"], scope["path"], scope["query_string"].decode(), headers, body.decode()]
    await reply(send, json.dumps(asked).encode())


@dataclass
class Served:
    """A server, and a client's end of one connection to it."""

    state: ServerState
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def protocol(self) -> Any:
        (protocol,) = self.state.connections
        return protocol

    async def answer(self) -> tuple[bytes, bytes]:
        """The next answer: its head, and its body where it has a length."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            return head, await self.reader.readexactly(int(length or 0))

    async def ask(self, request: bytes) -> Any:
        """What `echo` says to it."""
        self.writer.write(request)
        return json.loads((await self.answer())[1])

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(10):
            return await self.reader.read()


@asynccontextmanager
async def serving(app: App = echo, **options: Any) -> AsyncIterator[Served]:
    """One connection to a server of `app`. At the end it is cut, and no request may outlive that."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, http=HttpProtocol, **options)
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await until(lambda: bool(state.connections))
    try:
        yield Served(state, reader, writer)
    finally:
        writer.transport.abort()
        server.close()
        await until(lambda: not state.tasks and not state.connections)
        await server.wait_closed()


POST = b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
ECHO = ["POST", "/v1/x", "a=b", {"host": "h", "content-length": "5"}, "hello"]
