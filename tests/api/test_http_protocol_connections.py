"""How long a connection stays: clients that go or do not read, that wait, and a server that stops."""

import asyncio
import json
from typing import Any

import pytest

from api import http_protocol
from api.openai.client_connection import client_of
from tests.api.http_serving import ECHO, POST, reply, serving, whole_body
from tests.api.openai.serving import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("company")]


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
