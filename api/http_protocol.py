"""HTTP/1.1 as the server speaks it to clients: uvicorn's server with a protocol of our own, for the OpenAI door's sake.

uvicorn's own takes 19 of the 28 microseconds in which it answers a request with a constant; this one takes 5 instead of
the 19, with no timer, no event and no middleware for each request. It is stricter about what strangers may send: a
head has a limit in bytes, in headers and in time.

Give it to uvicorn as `Config(http=HttpProtocol)`. WebSockets are not spoken here: who asks for an upgrade is answered
in HTTP/1.1, as RFC 9110 (7.8) lets a server do.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from uvicorn import Config
from uvicorn.server import ServerState

from api.http_request import HttpRequest
from api.openai.client_connection import EXTENSION
from api.outbox import outbox

_log = structlog.get_logger()

MAX_HEADERS = 128
MAX_HEAD_BYTES = 65_536
MAX_UNREAD_BYTES = 65_536  # of a body that the application has not asked for: past it the client has to wait
MAX_PIPELINED = 32  # requests that came before the one in work was answered: past it the connection is cut
HEAD_SECONDS = 30.0  # from the connection's start, or a head's first byte, to its last
UNSENT_SECONDS = 60.0  # that a client may take nothing of the answer that waits for it
LAST_SECONDS = 1.0  # that a connection is left for a request that is on its way when the server stops

_HOP = (b"upgrade", b"http2-settings")  # what is only said to change the protocol
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_REFUSAL = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
_ERROR = b'{"error": {"message": "%b", "type": "invalid_request_error", "param": null, "code": null}}'


class _TooLargeError(Exception):
    """A head is larger than it may be."""


class _TooMuchAheadError(Exception):
    """More comes while a request is being answered than is kept for later."""


class HttpProtocol(asyncio.Protocol):
    """One client's connection. It is also the extension `stoker.client` of each request's scope."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        self._outbox = outbox()
        self.transport: asyncio.Transport
        self.lost = False
        self.write_paused = False
        self._keep_alive_seconds = float(config.timeout_keep_alive)
        self._root_path, self._state = config.root_path, app_state
        self._parser = httptools.HttpRequestParser(self)
        self._server: tuple[str, int] | None = None
        self._client: tuple[str, int] | None = None
        self._scheme = "http"
        self._request: HttpRequest | None = None  # the one whose body is coming, or came last
        self._running: HttpRequest | None = None  # the one that is being answered
        self._pipelined: deque[HttpRequest] = deque()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._in_head = True
        self._head_bytes = 0  # of the head that is coming; 0: none is
        self._framing_bytes = 0  # of a body, since there was content in it: sizes of pieces, trailers
        self._quiet_since = 0.0  # when the last answer ended, or the head began
        self._allowed_seconds = HEAD_SECONDS  # of quiet
        self._timer: asyncio.TimerHandle | None = None
        self._unsent, self._unsent_since = 0, 0.0  # bytes of answers, at the last look; since when so many
        self._read_paused = False
        self._refused = self._ending = False
        self._declined = ""  # the first line, without its URL, of a request for another protocol
        self._on_lost: Callable[[], None] | None = None
        self._writable: asyncio.Future[None] | None = None

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # it names its own two protocols only
        self._server, self._client = (_address(transport.get_extra_info(name)) for name in ("sockname", "peername"))
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self._quiet_since = self.loop.time()
        self._timer = self.loop.call_later(self._keep_alive_seconds, self._look)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            if not self._head_bytes:
                self._quiet_since, self._allowed_seconds = self.loop.time(), HEAD_SECONDS
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._declined:
                self._go_on_in_http1(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _TooMuchAheadError):
                self._refused = True
                self.transport.abort()
            elif isinstance(error.__context__, _TooLargeError):
                self._refuse(b"431 Request Header Fields Too Large", b"The request's head is too large.")
            elif self._request is None or self._request.keep_alive or not self._request.arrived:
                self._refuse(b"400 Bad Request", b"This is no valid HTTP request.")
        else:
            if self._head_bytes > MAX_HEAD_BYTES or self._framing_bytes > MAX_HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large", b"The request's head is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        for request in (self._running, self._request, *self._pipelined):
            if request is not None:
                request.wake()
        self.resume_writing()
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._url, self._headers, self._expects_continue, self._in_head = b"", [], False, True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nobody here asks for any
            return
        name = name.lower()
        if name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        if len(self._headers) >= MAX_HEADERS:
            raise _TooLargeError
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser, url = self._parser, self._url
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        if parser.should_upgrade() and method != "CONNECT":
            self._declined = f"{method} {{}} HTTP/{version}\r\n"
            return
        if url[:1] != b"/" and url != b"*":  # with scheme and host, as to a proxy
            parsed = httptools.parse_url(url)
            url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        self._in_head, self._head_bytes, self._framing_bytes = False, 0, 0
        root = self._root_path
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": method,
            "scheme": self._scheme,
            "path": root + path,
            "raw_path": root.encode("ascii") + raw_path,
            "query_string": query,
            "root_path": root,
            "headers": self._headers,
            "server": self._server,
            "client": self._client,
            "state": self._state.copy(),
            "extensions": {EXTENSION: self},
        }
        keep_alive = version != "1.0" and parser.should_keep_alive() and method != "CONNECT" and not self._ending
        request = self._request = HttpRequest(self, scope, keep_alive, self._expects_continue)
        if self._running is None:
            self._start(request)
        else:
            # Not to read on would be not to hear that the client goes, and what runs for it would go on.
            if len(self._pipelined) >= MAX_PIPELINED:
                raise _TooMuchAheadError
            self._pipelined.append(request)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        request = self._request
        if request is not None and request.add(body) > MAX_UNREAD_BYTES:
            if request is not self._running:
                raise _TooMuchAheadError
            self.pause_reading()

    def on_message_complete(self) -> None:
        if not self._declined:
            self._in_head = True
            if self._request is not None:
                self._request.add_end()

    # --- for the request that is being answered ---

    def write(self, data: bytes) -> None:
        """Writes it soon."""
        self._outbox.write(self.transport, data)

    def close(self) -> None:
        """Closes the connection behind what was written."""
        self._outbox.flush()
        self.transport.close()

    def answered(self, request: HttpRequest) -> None:
        """The whole answer is written."""
        self.server_state.total_requests += 1
        self._running = None
        if not request.keep_alive:
            self._refused = True  # whatever comes now is not read any more
            self.close()
            return
        self._quiet_since, self._allowed_seconds = self.loop.time(), self._keep_alive_seconds
        if self._pipelined:
            self._start(self._pipelined.popleft())
        self.resume_reading()

    def ended(self, request: HttpRequest) -> None:
        """The application is done with it, whatever became of the answer."""
        self._outbox.requests -= 1
        if request.task is not None:
            self.server_state.tasks.discard(request.task)

    async def writable(self) -> None:
        """Returns when the client takes more again, or is gone."""
        while self.write_paused and not self.lost:
            if self._writable is None:
                self._writable = self.loop.create_future()
            await asyncio.shield(self._writable)

    def pause_reading(self) -> None:
        """The client has to wait."""
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """What the client sends is taken again."""
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    # --- ClientConnection ---

    def listen(self, on_lost: Callable[[], None] | None) -> None:
        """Reads on too: a large body has stopped that, and who does not read does not hear that the client goes."""
        self._on_lost = on_lost
        if on_lost is not None:
            self.resume_reading()

    def take_body(self) -> bytes | None:
        """The body of the request that is being answered, where all of it is there and nothing of it was received."""
        return self._running.take_body() if self._running is not None else None

    def reply(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Writes a whole answer at once, unless the client takes nothing just now. `headers` tell its length."""
        request = self._running
        if request is None or request.started or self.write_paused or self.lost:
            return False
        request.reply(status, headers, body)
        return True

    def buffered(self) -> int:
        """Bytes that the transport still has to write."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Closes the transport at once."""
        self.transport.abort()

    # --- uvicorn's server ---

    def shutdown(self) -> None:
        """The server stops: the connection's next answer is its last, the one that is on its way or the next request's.

        A busy client's next request is on its way already; what is quiet for LAST_SECONDS is closed.
        """
        self._ending, self._keep_alive_seconds = True, LAST_SECONDS
        for request in (self._running, *self._pipelined):
            if request is not None and not request.started:  # else its client was told that the connection stays
                request.keep_alive = False
        if not self._head_bytes:
            self._quiet_since, self._allowed_seconds = self.loop.time(), LAST_SECONDS
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self.loop.call_later(LAST_SECONDS, self._look)

    def _go_on_in_http1(self, rest: bytes) -> None:
        """The parser takes all that follows for the other protocol, the body too: it is told the request anew.

        Java's client asks for h2c with every first request.
        """
        lines = [self._declined.encode("ascii").replace(b"{}", self._url, 1)]
        for name, value in self._headers:
            if name == b"connection":
                value = b", ".join(token for token in map(bytes.strip, value.split(b",")) if token.lower() not in _HOP)
            if value and name not in _HOP:
                lines.append(b"%b: %b\r\n" % (name, value))
        self._declined = ""
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join((*lines, b"\r\n", rest)))

    def _start(self, request: HttpRequest) -> None:
        self._running = request
        self._outbox.requests += 1
        request.task = task = self.loop.create_task(request.run(self.app))
        self.server_state.tasks.add(task)

    def _look(self) -> None:
        """One timer for a connection's life: it looks when the earliest could be due, so that no request moves it."""
        now = self.loop.time()
        due = self._quiet_since + self._allowed_seconds
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        if unsent and now - self._unsent_since >= UNSENT_SECONDS:
            self.transport.abort()  # to close it would be to wait for the client again
            return
        if unsent or self._running is not None:
            due = now + self._keep_alive_seconds
        elif now >= due:
            self.close()
            return
        self._timer = self.loop.call_at(due, self._look)

    def _refuse(self, status: bytes, message: bytes) -> None:
        """Answers what is no request, unless an answer to something else is on its way, and closes."""
        self._refused = True
        running = self._running
        unanswered = (
            self._in_head if running is None else running is self._request and not (running.arrived or running.started)
        )
        if unanswered and not self.transport.is_closing():
            content = _ERROR % message
            self.write(_REFUSAL % (status, len(content), content))
            self.lost = True  # for the application: what it says now would come behind
        self.close()


def _address(name: Any) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
