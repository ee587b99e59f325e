"""One request and its answer, between the wire and an ASGI application."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import structlog
from uvicorn.server import ServerState

log = structlog.get_logger()

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b"")) for status in range(100, 600)}
_NO_BODY = (204, 304)
_LENGTH, _CONNECTION = b"\r\ncontent-length: ", b"\r\nconnection: "
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CRASHED = {
    "type": "http.response.start",
    "status": 500,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21"), (b"connection", b"close")],
}


class Connection(Protocol):
    """The connection that a request came by."""

    lost: bool
    write_paused: bool
    transport: asyncio.Transport
    server_state: ServerState

    def write(self, data: bytes) -> None:
        """Writes it soon."""
        ...

    def close(self) -> None:
        """Closes the connection behind what was written."""
        ...

    def answered(self, request: "HttpRequest") -> None:
        """The whole answer is written."""
        ...

    def ended(self, request: "HttpRequest") -> None:
        """The application is done with it, whatever became of the answer."""
        ...

    async def writable(self) -> None:
        """Returns when the client takes more again, or is gone."""
        ...

    def resume_reading(self) -> None:
        """What the client sends is taken again."""
        ...


class HttpRequest:
    """A request; `receive` and `send` are ASGI's."""

    __slots__ = (
        "_asked", "_body", "_chunked", "_complete", "_connection", "_expects_continue", "_head", "_left", "_size",
        "_told", "_waiter", "_without_body", "arrived", "keep_alive", "scope", "started", "task",
    )  # fmt: skip

    def __init__(self, connection: Connection, scope: dict[str, Any], keep_alive: bool, expects_continue: bool) -> None:
        """`keep_alive`: the connection stays open after the answer."""
        self._connection, self.scope, self.keep_alive = connection, scope, keep_alive
        self._expects_continue = expects_continue
        self._body: list[bytes] = []  # what came of it and was not received yet
        self._size = 0  # of that, in bytes
        self.arrived = False  # the whole body
        self._asked = False  # for the body, by the application
        self._told = False  # the application has all of it
        self._head = b""  # of the answer, while it waits for the body's first piece
        self._chunked = False
        self._left: int | None = None  # bytes that the answer still owes to its content-length
        self._without_body = False
        self._complete = False
        self._waiter: asyncio.Event | None = None
        self.started = False
        self.task: asyncio.Task[None] | None = None

    async def run(self, app: App) -> None:
        """Has the application answer."""
        connection = self._connection
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:  # the last guard: one request's failure must not be the connection's
            log.exception("application_failed", path=self.scope["path"])
            await self._end_short()
        else:
            if not self._complete and not connection.lost:
                log.error("application_did_not_answer", path=self.scope["path"])
                await self._end_short()
        finally:
            if not self._complete:  # cancelled too
                connection.close()
            connection.ended(self)

    async def _end_short(self) -> None:
        if not self.started and not self._connection.lost:
            await self.send(_CRASHED)
            await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    # --- what comes ---

    def add(self, body: bytes) -> int:
        """A piece of the body came. Returns how many bytes wait for the application."""
        if self._complete:  # answered already: the rest is of no use
            return 0
        self._body.append(body)
        self._size += len(body)
        if self._waiter is not None:
            self._waiter.set()
        return self._size

    def add_end(self) -> None:
        """The body is whole."""
        self.arrived = True
        if self._waiter is not None:
            self._waiter.set()

    def wake(self) -> None:
        """The client is gone, or the answer complete."""
        if self._waiter is not None:
            self._waiter.set()

    def take_body(self) -> bytes | None:
        """The whole body, once, where all of it is there and nothing of it was received; else None."""
        if not self.arrived or self._asked:
            return None
        self._asked = self._told = True
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body, self._size = [], 0
        self._connection.resume_reading()
        return body

    async def receive(self) -> Message:
        """ASGI: all of the body that is there, or that the client is gone."""
        connection = self._connection
        self._asked = True
        if self._expects_continue and not self.started and not connection.lost:
            self._expects_continue = False
            if not self._body and not self.arrived:
                connection.write(_CONTINUE)
        while not connection.lost and not self._complete:
            if self._body or (self.arrived and not self._told):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body, self._size, self._told = [], 0, self.arrived
                connection.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not self.arrived}
            connection.resume_reading()
            self._waiter = asyncio.Event()
            await self._waiter.wait()
            self._waiter = None
        return {"type": "http.disconnect"}

    # --- what goes ---

    async def send(self, message: Message) -> None:
        """ASGI: the head, which waits for the body's first piece, and pieces of the body. Nothing to who is gone."""
        connection = self._connection
        if connection.write_paused:
            await connection.writable()
        if connection.lost:
            return
        if message["type"] == "http.response.body":
            if not self.started or self._complete:
                raise RuntimeError("a piece of an answer that has not begun, or is complete")
            self._write(message.get("body", b""), more=message.get("more_body", False))
        elif self.started:
            raise RuntimeError(f"{message['type']} in an answer that has begun")
        else:
            self._begin(message["status"], message.get("headers", ()))

    def reply(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer at once. It must not have begun."""
        self._begin(status, headers)
        self._write(body, more=False)

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        lines = [b"%b: %b\r\n" % header for header in (*self._connection.server_state.default_headers, *headers)]
        head = _STATUS_LINES[status] + b"".join(lines)
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise RuntimeError("a header of the answer holds a line break")
        self.started = True
        self._without_body = status in _NO_BODY or self.scope["method"] == "HEAD"
        at = head.find(_LENGTH)
        self._left = int(head[at + len(_LENGTH) : head.index(b"\r", at + len(_LENGTH))]) if at >= 0 else None
        if self._expects_continue and not self.arrived:  # it may send its body all the same, or not
            self.keep_alive = False
        if _CONNECTION in head and any(name == b"connection" and b"close" in value.lower() for name, value in headers):
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        if (
            at < 0 and not self._without_body and self.scope["http_version"] != "1.0"
        ):  # there the end is the connection's
            self._chunked = True
            head += b"transfer-encoding: chunked\r\n"
        self._head = head + b"\r\n"
        if at < 0:  # the body's first piece may take a while
            self._connection.write(self._head)
            self._head = b""

    def _write(self, body: bytes, *, more: bool) -> None:
        if self._without_body:
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += b"0\r\n\r\n"
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("an answer longer or shorter than its content-length")
            data = body
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._connection.write(data)
        if not more:
            self._complete = True
            self.wake()
            self._connection.answered(self)
