"""What is no request, has no end or comes too far ahead is refused or cut, and whoever works on it is told."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from api.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, MAX_UNREAD_BYTES
from api.openai.client_connection import client_of
from tests.api.http_serving import POST, reply, serving
from tests.api.openai.serving import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("company")]


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


async def test_who_is_refused_instead_cannot_use_the_connection_again() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await reply(send, b"no", 413)

    async with serving(refuses) as served:
        served.writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        head, body = await served.answer()
        assert (head[:12], body) == (b"HTTP/1.1 413", b"no")
        assert await served.rest() == b""
