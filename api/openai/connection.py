"""One connection to an engine: HTTP/1.1 on the wire, and what an engine may not send there.

UpstreamError
├── ConnectError      no connection: the request never left
├── ClosedError       the engine closed the connection before its answer was whole
├── MalformedError    it sent what is no valid answer, or more of it than is allowed
├── DeadlineError     it took longer than it may (`phase`: first_byte, idle, total)
└── AbortedError      this side gave up, because its client has gone
"""

import asyncio
from typing import Protocol, cast

import httptools

from api.openai.errors import Header
from api.outbox import outbox
from stoker.mesh.ways import Way

MAX_HEADERS = 100
MAX_OVERHEAD_BYTES = 65_536  # of a head, or of framing with no byte of body in it
MAX_BACKLOG_BYTES = 65_536  # received and not yet read: past it the engine has to wait
NO_BODY = (204, 304)


class UpstreamError(Exception):
    """An exchange with an engine that did not end well; see the module's tree."""


class ConnectError(UpstreamError):
    """No connection could be made: refused, unreachable, or not within the time allowed."""


class ClosedError(UpstreamError):
    """The connection was closed before the answer was whole."""


class MalformedError(UpstreamError):
    """What came is no valid answer, or breaks a limit."""


class DeadlineError(UpstreamError):
    """A deadline passed; `phase` says which: "first_byte", "idle" or "total"."""

    def __init__(self, phase: str) -> None:
        super().__init__(f"the engine's {phase} deadline passed")
        self.phase = phase


class AbortedError(UpstreamError):
    """Given up on this side."""


class Receiver(Protocol):
    """Whom a connection hands an answer to, from its first byte to its end."""

    backlog: int  # bytes of body received and not yet read

    def heard(self) -> None:
        """Bytes came, whatever they are."""
        ...

    def head_received(self, status: int, headers: list[Header]) -> None:
        """Status and headers (names in lower case) are there."""
        ...

    def body_received(self, data: bytes) -> None:
        """A piece of the body is there; never empty."""
        ...

    def completed(self) -> None:
        """The answer is whole."""
        ...

    def failed(self, error: UpstreamError) -> None:
        """No more will come."""
        ...

    def writable(self) -> None:
        """The engine takes more of the request again."""
        ...


class Owner(Protocol):
    """Where a connection belongs while nobody uses it."""

    def opened(self, connection: "Connection") -> None:
        """The connection is there; `lost` will be told of its end."""
        ...

    def released(self, connection: "Connection", *, reusable: bool) -> None:
        """The answer is whole; `reusable`: the next request may go over this connection."""
        ...

    def lost(self, connection: "Connection") -> None:
        """The connection is closed."""
        ...


class _Refusal(Exception):  # noqa: N818 - never leaves this module: it carries a reason through the parser
    pass


class Connection(asyncio.Protocol):
    """Carries one exchange at a time. `receiver` is None between exchanges: bytes that come then end it."""

    def __init__(self, owner: Owner, address: Way) -> None:
        self.address = address
        self.receiver: Receiver | None = None
        self.request_sent = False
        self.write_paused = False
        self.idle_until = 0.0  # the pool's note
        self.idle_seconds: float | None = None  # how long the engine says it keeps an idle connection
        self.transport: asyncio.Transport
        self._owner = owner
        self._pieces: list[bytes] = []  # of the body, while bytes are parsed
        self.on_body = self._pieces.append  # httptools calls it: a stream has hundreds of pieces, and few reads
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._overhead = 0
        self._head_complete = False
        self._read_paused = False

    def begin(self, receiver: Receiver) -> None:
        """From now on, what comes is the answer for `receiver`, until it is whole or the connection is closed."""
        self.receiver = receiver
        self.request_sent = self._head_complete = False
        self._headers, self._head_bytes, self._overhead = [], 0, 0

    def write(self, data: bytes) -> None:
        """Writes it soon."""
        outbox().write(self.transport, data)

    def close(self) -> None:
        """Closes at once; what was not sent yet is dropped, and the receiver hears nothing more."""
        self.receiver = None
        self.transport.abort()

    def resume_reading(self) -> None:
        """The receiver has room again."""
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    @property
    def read_paused(self) -> bool:
        """Whether the engine has to wait for the receiver."""
        return self._read_paused

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        receiver = self.receiver
        if receiver is None:  # nobody asked: whatever this is, it must not become the next request's answer
            self.close()
            return
        receiver.heard()
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            reason = error.__context__ if isinstance(error.__context__, _Refusal) else error
            self._pass_on(self.receiver)
            self._fail(MalformedError(f"the engine's answer is not valid: {reason}"))
            return
        self._pass_on(self.receiver)
        if self._overhead > MAX_OVERHEAD_BYTES:
            self._fail(MalformedError(f"the engine sent {self._overhead} bytes of head or framing, and no body"))
        elif receiver.backlog > MAX_BACKLOG_BYTES and self.receiver is receiver and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        self._fail(ClosedError(f"the engine closed the connection{f': {exc}' if exc else ''}"))

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.receiver is not None:
            self.receiver.writable()

    def _pass_on(self, receiver: Receiver | None) -> None:
        pieces = self._pieces
        if pieces:
            self._overhead = 0
            if receiver is not None:
                receiver.body_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()

    def _fail(self, error: UpstreamError) -> None:
        receiver = self.receiver
        self.close()
        if receiver is not None:
            receiver.failed(error)

    # --- httptools: what is raised in these comes out of feed_data, as its error's context ---

    def on_message_begin(self) -> None:
        if self.receiver is None:
            raise _Refusal("bytes after its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            raise _Refusal("a trailer")
        self._head_bytes += len(name) + len(value)
        if len(self._headers) >= MAX_HEADERS or self._head_bytes > MAX_OVERHEAD_BYTES:
            raise _Refusal(f"more than {MAX_HEADERS} headers, or {MAX_OVERHEAD_BYTES} bytes of them")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_complete = True
        status = self._parser.get_status_code()
        if not 200 <= status <= 599:
            raise _Refusal(f"status {status}")
        if not self._parser.get_http_version().startswith("1."):
            raise _Refusal(f"HTTP {self._parser.get_http_version()}")
        framed = status in NO_BODY
        for name, value in self._headers:
            if name == b"content-length" or (name == b"transfer-encoding" and value.lower() == b"chunked"):
                framed = True
            elif name == b"keep-alive" and self.idle_seconds is None:
                self.idle_seconds = _timeout_of(value)
        if not framed:  # it would end with the connection, whole or cut: nobody could tell which
            raise _Refusal("neither content-length nor chunked")
        if self.receiver is not None:
            self.receiver.head_received(status, self._headers)

    def on_message_complete(self) -> None:
        receiver, self.receiver = self.receiver, None
        self._pass_on(receiver)
        self.resume_reading()
        self._owner.released(self, reusable=self.request_sent and self._parser.should_keep_alive())
        if receiver is not None:
            receiver.completed()


def _timeout_of(keep_alive: bytes) -> float | None:
    """Seconds in `timeout=5, max=100`."""
    for part in keep_alive.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name.lower() == b"timeout" and value.isdigit() and len(value) < 6:
            return float(value)
    return None
