"""HTTP/1.1 on the wire, from raw bytes to an ASGI application and back, in uvicorn's hands."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.http_protocol import MAX_PIPELINED
from api.openai.client_connection import client_of
from tests.api.http_serving import ECHO, POST, reply, serving, whole_body
from tests.api.openai.serving import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("company")]


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


async def test_who_waits_to_be_told_to_go_on_is_told_when_the_body_is_asked_for() -> None:
    async with serving() as served:
        served.writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await served.answer())[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await served.ask(b"ok"))[4] == "ok"


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
