"""HTTP/1.1 on the wire, from raw bytes to an ASGI application and back, in uvicorn's hands."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from api import http_protocol
from api.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, MAX_UNREAD_BYTES, HttpProtocol
from api.openai.client_connection import client_of
from tests.api.openai.serving import until

pytestmark = pytest.mark.anyio

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


@pytest.mark.parametrize(
    ("request_bytes", "said"),
    [
        (POST, ECHO),
        (b"GET / HTTP/1.1\r\nX-Two:  words here\r\n\r\n", ["GET", "/", "", {"x-two": "words here"}, ""]),
        (b"GET /a%20b%2Fc?q=%20 HTTP/1.1\r\n\r\n", ["GET", "/a b/c", "q=%20", {}, ""]),
        (b"GET http://h:1/x?y HTTP/1.1\r\n\r\n", ["GET", "/x", "y", {}, ""]),
        (b"GET http://h HTTP/1.1\r\n\r\n", ["GET", "/", "", {}, ""]),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", ["OPTIONS", "*", "", {}, ""]),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-End: 1\r\n\r\n",
            ["POST", "/", "", {"transfer-encoding": "chunked"}, "hello"],
        ),
        (b"GET /w HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", ["GET", "/w", "", {}, ""]),
        (
            b"POST /{} HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\nConnection: Upgrade, HTTP2-Settings, te\r\n"
            b"Content-Length: 5\r\n\r\nhello",
            ["POST", "/{}", "", {"connection": "te", "content-length": "5"}, "hello"],
        ),
    ],
    ids=["body", "header", "escapes", "absolute", "host only", "asterisk", "chunked", "websocket", "h2c"],
)
async def test_what_is_asked_reaches_the_application_and_the_connection_stays(request_bytes: bytes, said: Any) -> None:
    async with serving() as served:
        assert await served.ask(request_bytes) == said
        assert await served.ask(POST) == ECHO


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 3 * len(POST) - 1), max_size=12))
def test_requests_may_come_in_any_pieces(cuts: set[int]) -> None:
    data = POST + POST.replace(b"/x", b"/y") + POST
    places = [0, *sorted(cuts), len(data)]

    async def run() -> list[Any]:
        async with serving() as served:
            for begin, end in pairwise(places):
                served.writer.write(data[begin:end])
                await asyncio.sleep(0)
            return [json.loads((await served.answer())[1])[1] for _ in range(3)]

    assert asyncio.run(run()) == ["/v1/x", "/v1/y", "/v1/x"]


async def test_a_body_that_is_there_can_be_taken_at_once() -> None:
    taken: list[bytes | None] = []

    async def takes(scope: Any, receive: Any, send: Any) -> None:
        client = client_of(scope)
        assert client is not None
        taken.extend([client.take_body(), client.take_body()])
        await reply(send, taken[-2] if taken[-2] is not None else await whole_body(receive))

    async with serving(takes) as served:
        served.writer.write(POST)
        assert (await served.answer())[1] == b"hello"
        served.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await served.answer())[1] == b""
        served.writer.write(POST[:-2])
        await until(lambda: len(taken) == 6)
        served.writer.write(POST[-2:])
        assert (await served.answer())[1] == b"hello"
    assert taken == [b"hello", None, b"", None, None, None]


async def test_a_whole_answer_can_be_written_at_once_and_only_once() -> None:
    written: list[bool] = []

    async def replies(scope: Any, receive: Any, send: Any) -> None:
        client = client_of(scope)
        assert client is not None
        for _ in range(2):
            written.append(client.reply(200, [(b"content-length", b"2")], b"ok"))

    async with serving(replies) as served:
        for _ in range(2):
            served.writer.write(POST)
            assert (await served.answer())[1] == b"ok"
        served.writer.write(POST.replace(b"POST", b"HEAD"))
        await until(lambda: len(written) == 6)
        assert (await served.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n")
    assert written == [True, False] * 3


async def test_many_requests_at_once_are_answered_in_their_order() -> None:
    numbers = range(MAX_PIPELINED)
    async with serving() as served:
        for number in numbers:
            served.writer.write(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        assert [json.loads((await served.answer())[1])[1] for _ in numbers] == [f"/{number}" for number in numbers]
        assert served.state.total_requests == len(numbers)


@pytest.mark.parametrize(
    "more",
    [
        b"GET / HTTP/1.1\r\n\r\n" * (MAX_PIPELINED + 2),
        b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(2 * MAX_UNREAD_BYTES),
    ],
    ids=["requests", "body"],
)
async def test_who_sends_too_much_ahead_is_cut_and_what_runs_for_it_is_told(more: bytes) -> None:
    """Who is not read from any more is not heard to go either, and an engine would go on for nobody."""
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        client = client_of(scope)
        assert client is not None
        client.listen(lambda: lost.set_result(scope["path"]))
        await lost

    async with serving(waits) as served:
        served.writer.write(b"GET /running HTTP/1.1\r\n\r\n" + more)
        assert await asyncio.wait_for(lost, 10) == "/running"
        with suppress(ConnectionResetError):
            assert await served.rest() == b""


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"CONNECT h:1 HTTP/1.1\r\n\r\n"],
)
async def test_a_connection_that_is_not_to_stay_ends_with_the_answer(request_bytes: bytes) -> None:
    async with serving() as served:
        served.writer.write(request_bytes + POST)
        head, _ = await served.answer()
        assert b"\r\nconnection: close\r\n" in head
        assert await served.rest() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01", b"400 Bad Request"),  # TLS
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEADERS + 2), b"431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES, b"431 Request Header Fields Too Large"),
        (b"GET /" + b"b" * MAX_HEAD_BYTES, b"431 Request Header Fields Too Large"),
    ],
    ids=["nonsense", "TLS", "two lengths", "negative", "many headers", "endless header", "endless path"],
)
async def test_what_is_no_request_is_refused(data: bytes, status: bytes) -> None:
    async with serving() as served:
        served.writer.write(data)
        head, body = await served.answer()
        assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert await served.rest() == b""


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"0\r\nX: ", b"y" * 65536),  # the parser would join them, and each time copy what it has
        (b"0\r\n", b"x: y\r\n" * 10_000),
        (b"1;", b"y" * 65536),
    ],
    ids=["a trailer", "trailers", "an extension"],
)
@pytest.mark.parametrize("early", [True, False])
async def test_framing_without_end_is_not_read(begun: bytes, more: bytes, early: bool) -> None:
    async def answers(scope: Any, receive: Any, send: Any) -> None:
        if not early:
            assert (await receive())["type"] == "http.disconnect"
        else:
            await reply(send, b"no", 401)

    async with serving(answers) as served:
        served.writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + begun)
        if early:
            assert (await served.answer())[1] == b"no"
        with suppress(ConnectionResetError):
            for _ in range(8):
                served.writer.write(more)
                await served.writer.drain()
            rest = await served.rest()
            assert rest.startswith(b"" if early else b"HTTP/1.1 431 ")
            assert not (early and rest), "one answer is enough"


async def test_a_body_that_is_malformed_is_refused_and_the_application_told() -> None:
    told: list[str] = []

    async def listens(scope: Any, receive: Any, send: Any) -> None:
        told.append((await receive())["type"])
        await reply(send, b"too late")

    async with serving(listens) as served:
        served.writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await until(lambda: bool(served.state.tasks))
        served.writer.write(b"no number\r\n")
        head, _ = await served.answer()
        assert head.startswith(b"HTTP/1.1 400 ")
        assert await served.rest() == b""
    assert told == ["http.disconnect"]


async def test_nonsense_after_a_request_ends_the_connection_and_adds_nothing_to_its_answer() -> None:
    gate = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await reply(send, b"late")

    async with serving(waits) as served:
        served.writer.write(POST + b"NONSENSE\r\n\r\n")
        assert await served.rest() == b""
        gate.set()


async def test_who_waits_to_be_told_to_go_on_is_told_when_the_body_is_asked_for() -> None:
    async with serving() as served:
        served.writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await served.answer())[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await served.ask(b"ok"))[4] == "ok"


async def test_who_is_refused_instead_cannot_use_the_connection_again() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"no", 413)

    async with serving(refuses) as served:
        served.writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        head, body = await served.answer()
        assert (head[:12], body) == (b"HTTP/1.1 413", b"no")
        assert await served.rest() == b""


@pytest.mark.parametrize(
    ("status", "method", "version", "wire"),
    [
        (200, b"GET", b"1.1", b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        (200, b"GET", b"1.0", b"connection: close\r\n\r\nonetwo"),
        (200, b"HEAD", b"1.1", b"HTTP/1.1 200 OK\r\n\r\n"),
        (204, b"GET", b"1.1", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (599, b"GET", b"1.1", b"chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
    ],
)
async def test_an_answer_of_unknown_length(status: int, method: bytes, version: bytes, wire: bytes) -> None:
    async def pieces(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(pieces) as served:
        served.writer.write(method + b" / HTTP/" + version + b"\r\n\r\n")
        async with asyncio.timeout(10):
            got = b""
            while not got.endswith(wire):
                got += await served.reader.read(4096)


@pytest.mark.parametrize(
    ("headers", "pieces", "wire"),
    [
        (None, (), b"HTTP/1.1 500 Internal Server Error"),
        ([(b"x", b"a\r\nb: c")], (b"",), b"HTTP/1.1 500 Internal Server Error"),
        ([(b"content-length", b"3")], (), b""),
        ([(b"content-length", b"3")], (b"ab",), b""),
        ([(b"content-length", b"3")], (b"abcd",), b""),
        ([], (b"abc", None), b"3\r\nabc\r\n"),
    ],
    ids=["nothing", "line break", "no body", "too short", "too long", "broken off"],
)
async def test_an_application_that_fails_ends_its_connection(headers: Any, pieces: Any, wire: bytes) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if headers is None:
            raise ValueError("before")
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            if piece is None:
                raise ValueError("in the middle")
            await send({"type": "http.response.body", "body": piece, "more_body": piece == b"abc"})

    async with serving(fails) as served:
        served.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        said = await served.rest()
        assert wire in said
        assert bool(said) is bool(wire)
        assert b"0\r\n\r\n" not in said


async def test_a_client_that_goes_is_told_of_at_once() -> None:
    lost: list[str] = []
    asked, gone = asyncio.Event(), asyncio.Event()

    async def listens(scope: Any, receive: Any, send: Any) -> None:
        client = client_of(scope)
        assert client is not None
        await whole_body(receive)
        client.listen(lambda: lost.append("told"))
        asked.set()
        assert (await receive())["type"] == "http.disconnect"
        assert client.lost
        await reply(send, b"nobody reads this")
        gone.set()

    async with serving(listens) as served, asyncio.timeout(10):
        served.writer.write(POST)
        await asked.wait()
        served.writer.close()
        await gone.wait()
        assert lost == ["told"]


async def test_a_client_that_does_not_read_stops_the_application() -> None:
    block, sent = b"x" * 65_536, 0

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        client = client_of(scope)
        assert client is not None
        while not client.lost:
            await send({"type": "http.response.body", "body": block, "more_body": True})
            sent += len(block)

    async with serving(endless) as served:
        served.reader._transport.pause_reading()  # type: ignore[attr-defined]
        served.writer.write(POST)
        await until(lambda: served.protocol.write_paused)
        before = sent
        for _ in range(20):
            await asyncio.sleep(0)
        assert sent == before
        assert served.protocol.buffered() < 4 * len(block)
        served.reader._transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while sent < before + 10 * len(block):
                await served.reader.read(1 << 20)
        served.protocol.abort()


async def test_an_application_that_does_not_read_stops_the_client() -> None:
    go_on, size = asyncio.Event(), 32 * 1024 * 1024

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await reply(send, b"%d" % len(await whole_body(receive)))

    async with serving(late) as served:
        served.writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await until(lambda: served.protocol._read_paused)
        assert served.writer.transport.get_write_buffer_size() > size // 2
        go_on.set()
        assert (await served.answer())[1] == b"%d" % size


async def test_what_is_left_of_a_body_that_nobody_wants_is_dropped_and_the_connection_stays() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"no", 413)

    size = 1024 * 1024
    async with serving(refuses) as served:
        for _ in range(2):
            served.writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            assert (await served.answer())[1] == b"no"


async def test_an_idle_connection_is_closed_and_one_in_work_is_not() -> None:
    done = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await done.wait()
        await reply(send, b"at last")

    async with serving(slow, timeout_keep_alive=0.02) as served:
        served.writer.write(POST)
        await until(lambda: bool(served.state.tasks))
        await asyncio.sleep(0.1)  # several times as long as an idle one may stay
        done.set()
        assert (await served.answer())[1] == b"at last"
        assert await served.rest() == b""


async def test_a_client_that_never_takes_its_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "UNSENT_SECONDS", 0.05)

    async def much(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, bytes(32 * 1024 * 1024))

    async with serving(much, timeout_keep_alive=0.02) as served:
        served.reader._transport.pause_reading()  # type: ignore[attr-defined]
        served.writer.write(POST + POST.replace(b"Host: h", b"Connection: close"))
        await until(lambda: not served.state.connections)


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 16 * 1024 * 1024

    async def much(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, bytes(size))

    async with serving(much, timeout_keep_alive=0.01) as served:
        served.writer.write(POST)
        await served.reader.readuntil(b"\r\n\r\n")
        while size:
            size -= len(await served.reader.read(min(size, 1024 * 1024)))
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost"])
async def test_a_head_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.02)
    async with serving(timeout_keep_alive=0.02) as served:
        served.writer.write(begun)
        assert await served.rest() == b""


async def test_a_server_that_stops_finishes_its_answers() -> None:
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await reply(send, b"the last")

    async with serving(slow) as served:
        served.writer.write(POST)
        await until(lambda: bool(served.state.tasks))
        served.protocol.shutdown()
        go_on.set()
        head, body = await served.answer()
        assert body == b"the last"
        assert b"\r\nconnection: close\r\n" in head
        assert await served.rest() == b""


@pytest.mark.parametrize("asked_before", [True, False])
async def test_a_server_that_stops_closes_what_is_idle(asked_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LAST_SECONDS", 0.05)
    async with serving() as served:
        if asked_before:
            assert await served.ask(POST) == ECHO
        served.protocol.shutdown()
        assert await served.rest() == b""


@pytest.mark.parametrize("asked_before", [True, False])
async def test_a_request_that_is_on_its_way_when_the_server_stops_is_answered(asked_before: bool) -> None:
    async with serving() as served:
        if asked_before:
            assert await served.ask(POST) == ECHO
        served.protocol.shutdown()
        served.writer.write(POST + POST)
        head, body = await served.answer()
        assert json.loads(body) == ECHO
        assert b"\r\nconnection: close\r\n" in head
        assert await served.rest() == b"", "one is the last"


async def test_who_was_told_that_the_connection_stays_may_ask_once_more_when_the_server_stops() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        length = (b"content-length", b"2")
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        begun.set()
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"b"})

    async with serving(slow) as served:
        served.writer.write(POST)
        await begun.wait()
        served.protocol.shutdown()
        go_on.set()
        head, body = await served.answer()
        assert body == b"ab"
        assert b"connection: close" not in head
        served.writer.write(POST)
        head, body = await served.answer()
        assert body == b"ab"
        assert b"\r\nconnection: close\r\n" in head
        assert await served.rest() == b""
