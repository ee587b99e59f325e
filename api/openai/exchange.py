"""One request to an engine and its answer, over a connection of the pool."""

import asyncio
import math
from dataclasses import dataclass
from typing import Protocol

from api.openai.connection import (
    AbortedError,
    ClosedError,
    ConnectError,
    Connection,
    DeadlineError,
    MalformedError,
    UpstreamError,
)
from api.openai.deadlines import Deadlines
from api.openai.errors import Header
from stoker.mesh.ways import Way

Address = Way
"""Where an engine is reached: its own host and port, or the gateway that leads to it."""

_SLICE = 262_144  # bytes of a request handed to the transport at once: it copies what the socket does not take


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte` counts from the sending of the request, `idle` from one byte of the answer to the next."""

    connect: float = 2.0
    first_byte: float = 600.0
    idle: float = 120.0  # llama-server sends a comment every 30 s while it has no token


class Connections(Protocol):
    """Where an exchange gets its connection, and who tells it that it is late."""

    deadlines: Deadlines

    def take(self, address: Address) -> Connection | None:
        """An idle connection, or None."""
        ...

    async def connect(self, address: Address, timeout: float) -> Connection:
        """A new connection. Raises ConnectError."""
        ...

    def discard_idle(self, address: Address) -> None:
        """Closes the idle connections to an engine."""
        ...


class Exchange:
    """One request and its answer. `status` is 0 until the head of the answer is there."""

    __slots__ = (
        "_aborted", "_address", "_answered", "_body", "_chunks", "_complete", "_connection", "_connections",
        "_deadline", "_error", "_head", "_heard_at", "_loop", "_timeouts", "_waiter", "backlog",
        "headers", "status",
    )  # fmt: skip

    def __init__(
        self,
        connections: Connections,
        address: Address,
        head: bytes,
        body: bytes,
        timeouts: Timeouts,
        deadline: float,
    ) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.backlog = 0
        self._connections, self._address, self._head, self._body = connections, address, head, body
        self._timeouts, self._deadline = timeouts, deadline
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._chunks: list[bytes] = []
        self._complete = self._answered = self._aborted = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard_at = 0.0

    async def start(self) -> None:
        """Sends the request and waits for the head of the answer. Raises UpstreamError; nothing is left open then.

        A kept connection that turns out to be closed before any byte of an answer is replaced by a new one, once:
        most likely the engine closed it for its age, and has not seen the request. ConnectError means that it surely
        has not; an engine that is gone after that first try may have gone because of the request: ClosedError.
        """
        self._check_wanted()
        found_closed: ClosedError | None = None
        connection = self._connections.take(self._address)
        if connection is not None:
            try:
                await self._send(connection)
            except ClosedError as error:
                if self._answered:
                    raise
                self._connections.discard_idle(self._address)
                self._error, found_closed = None, error
            else:
                return
        try:
            connection = await self._connect()
        except ConnectError as error:
            if found_closed is not None:
                raise found_closed from error
            raise
        await self._send(connection)

    async def read(self) -> bytes:
        """The next bytes of the body, all that are there; empty at its end. Raises UpstreamError after the last."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.backlog = 0
        if self._connection is not None and self._connection.read_paused:
            self._heard_at = self._loop.time()  # the engine had to wait for us, so its clock starts anew
            self._connection.resume_reading()
        return data

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises UpstreamError, MalformedError when it is longer than `limit` bytes."""
        pieces, size = [], 0
        while data := await self.read():
            pieces.append(data)
            size += len(data)
            if size > limit:
                self.abort()
                raise MalformedError(f"the engine's answer is longer than {limit} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def header(self, name: bytes) -> bytes:
        """The header's value, empty when there is none. `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    def abort(self) -> None:
        """Gives up: closes the connection at once, unless the answer is whole already. May be called at any time."""
        self._aborted = True
        if not self._complete and self._error is None:
            self._chunks.clear()
            self._end(AbortedError("given up"))

    async def _connect(self) -> Connection:
        self._check_wanted()
        left = self._deadline - self._loop.time()
        if left <= 0:
            raise DeadlineError("total")
        connection = await self._connections.connect(self._address, min(self._timeouts.connect, left))
        if self._aborted:
            connection.close()
            raise AbortedError("given up before it was sent")
        return connection

    def _check_wanted(self) -> None:
        if self._aborted:
            raise AbortedError("given up before it was sent")

    async def _send(self, connection: Connection) -> None:
        self._connection = connection
        connection.begin(self)
        self._heard_at = self._loop.time()
        self._connections.deadlines.watch(self, min(self._heard_at + self._timeouts.first_byte, self._deadline))
        try:
            await self._write(connection)
            while not self.status and self._error is None:
                await self._wait()
        except BaseException:  # cancelled
            self.abort()
            raise
        if self._error is not None and not self.status:
            raise self._error

    async def _write(self, connection: Connection) -> None:
        if len(self._body) <= _SLICE:
            connection.write(self._head + self._body)
        else:
            write = connection.transport.write
            write(self._head)
            body = memoryview(self._body)
            for start in range(0, len(body), _SLICE):
                write(body[start : start + _SLICE])
                while connection.write_paused and not self.status and self._error is None:
                    await self._wait()
                if self.status or self._error is not None:  # answered or gone before it took all of it
                    return
        connection.request_sent = True

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, error: UpstreamError | None) -> None:
        self._error, self._complete = error, error is None
        self._connections.deadlines.forget(self)
        connection, self._connection = self._connection, None
        if connection is not None and error is not None:
            connection.close()
        self._wake()

    # --- deadlines.Watched ---

    def look(self, now: float) -> float:
        """Ends it when it is late."""
        due = self._heard_at + (self._timeouts.idle if self.status else self._timeouts.first_byte)
        if self._connection is not None and self._connection.read_paused:
            due = now + self._timeouts.idle  # it is we who are slow
        if now >= self._deadline:
            self._end(DeadlineError("total"))
        elif now >= due:
            self._end(DeadlineError("idle" if self.status else "first_byte"))
        else:
            return min(due, self._deadline)
        return math.inf

    # --- connection.Receiver ---

    def heard(self) -> None:
        self._answered = True
        self._heard_at = self._loop.time()

    def head_received(self, status: int, headers: list[Header]) -> None:
        self.status, self.headers = status, headers
        # another deadline holds from now on, and it may be the sooner one
        self._connections.deadlines.watch(self, min(self._heard_at + self._timeouts.idle, self._deadline))
        self._wake()

    def body_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self.backlog += len(data)
        self._wake()

    def completed(self) -> None:
        self._end(None)

    def failed(self, error: UpstreamError) -> None:
        self._end(error)

    def writable(self) -> None:
        self._wake()
