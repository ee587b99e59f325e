"""The client for the hop to an engine, against engines that do as they please."""

import asyncio

import pytest

from api.openai.connection import (
    ClosedError,
    ConnectError,
    MalformedError,
)
from api.openai.upstream import Pool
from tests.api.openai.cluster import fetch
from tests.api.openai.recordings import recorded, recorded_body
from tests.api.openai.serving import until
from tests.fakes.engine import (
    STREAM_END,
    STREAM_HEAD,
    Close,
    Endless,
    FakeEngine,
    Gate,
    Hang,
    Script,
    Send,
    answer,
    chunk,
)

pytestmark = pytest.mark.anyio

OK = answer(b'{"fine":true}')
LARGE = 16 * 1024 * 1024


async def test_a_request_is_sent_as_it_is_and_its_answer_read(pool: Pool) -> None:
    async with FakeEngine([Send(recorded("chat"))]) as engine:
        headers = [(b"authorization", b"Bearer k"), (b"x-request-id", b"r1")]
        exchange = pool.exchange(engine.address, "POST", "/v1/chat/completions", headers, b'{"a":1}')
        await exchange.start()
        assert exchange.status == 200
        assert exchange.header(b"content-type") == b"application/json; charset=utf-8"
        assert exchange.header(b"x-none") == b""
        assert await exchange.read_all(10_000) == recorded_body("chat")
        assert await exchange.read() == b""
        (request,) = engine.requests
        assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions", b'{"a":1}')
        assert request.headers == {
            "host": f"127.0.0.1:{engine.address[1]}",
            "content-length": "7",
            "authorization": "Bearer k",
            "x-request-id": "r1",
        }


async def test_a_connection_is_used_again_and_again(pool: Pool) -> None:
    async with FakeEngine([Send(OK)], [Send(recorded("chat_stream"), every=1)], [Send(OK)]) as engine:
        for _ in range(5):
            await fetch(pool, engine)
        assert (engine.connections, len(engine.requests), pool.open_connections) == (1, 5, 1)


async def test_concurrent_requests_get_connections_of_their_own(pool: Pool) -> None:
    gate = Gate()
    async with FakeEngine([gate, Send(OK)]) as engine:
        running = [asyncio.create_task(fetch(pool, engine)) for _ in range(5)]
        await engine.until(lambda engine: len(engine.requests) == 5)
        gate.event.set()
        assert await asyncio.gather(*running) == [b'{"fine":true}'] * 5
        assert engine.connections == 5


@pytest.mark.parametrize(
    "script",
    [
        [Send(answer(b"{}", "200 OK", "application/json", "Connection: close"))],
        [Send(answer(b"{}") + b"extra")],
        [Send(answer(b"{}", "200 OK", "application/json", "Keep-Alive: timeout=1"))],  # within our margin of closing
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(pool: Pool, script: Script) -> None:
    async with FakeEngine(script) as engine:
        for _ in range(3):
            assert await fetch(pool, engine) == b"{}"
        assert engine.connections == 3


async def test_no_more_connections_are_kept_than_allowed() -> None:
    pool, gate = Pool(max_idle=2), Gate()
    async with FakeEngine([gate, Send(OK)]) as engine:
        running = [asyncio.create_task(fetch(pool, engine)) for _ in range(5)]
        await engine.until(lambda engine: len(engine.requests) == 5)
        gate.event.set()
        await asyncio.gather(*running)
        await until(lambda: pool.open_connections == 2)
        await pool.aclose()


async def test_a_kept_connection_that_the_engine_has_closed_is_replaced(pool: Pool) -> None:
    async with FakeEngine([Send(OK)], [Close()], [Send(OK)]) as engine:
        await fetch(pool, engine)
        assert await fetch(pool, engine) == b'{"fine":true}'  # the second request is read, and its connection closed
        assert (engine.connections, len(engine.requests)) == (2, 3)


async def test_it_is_replaced_once_only(pool: Pool) -> None:
    async with FakeEngine([Send(OK)], [Close()]) as engine:
        await fetch(pool, engine)
        with pytest.raises(ClosedError):
            await fetch(pool, engine)
        assert (engine.connections, len(engine.requests)) == (2, 3)


async def test_an_engine_that_is_gone_after_the_first_try_may_have_seen_the_request(pool: Pool) -> None:
    gate = Gate()
    async with FakeEngine([Send(OK)], [gate, Close()]) as engine:
        await fetch(pool, engine)
        asking = asyncio.create_task(fetch(pool, engine))
        await engine.until(lambda engine: len(engine.requests) == 2)
        engine.stop_listening()
        gate.event.set()
        with pytest.raises(ClosedError):  # ConnectError would say that it was never sent
            await asking


async def test_a_request_that_was_partly_answered_is_not_sent_twice(pool: Pool) -> None:
    async with FakeEngine([Send(OK)], [Send(b"HTTP/1.1 200"), Close()]) as engine:
        await fetch(pool, engine)
        with pytest.raises(ClosedError):
            await fetch(pool, engine)
        assert len(engine.requests) == 2


async def test_a_request_over_a_new_connection_is_not_sent_twice(pool: Pool) -> None:
    async with FakeEngine([Close()]) as engine:
        with pytest.raises(ClosedError):
            await fetch(pool, engine)
        assert len(engine.requests) == 1


async def test_an_engine_that_is_not_there(pool: Pool) -> None:
    async with FakeEngine([Send(OK)]) as engine:
        address = engine.address
    with pytest.raises(ConnectError, match=f"{address[0]}:{address[1]} cannot be reached"):
        await pool.exchange(address, "GET", "/").start()
    with pytest.raises(ConnectError):
        await pool.exchange(("no host at all", 1), "GET", "/").start()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([Close()], ClosedError),
        ([Close(reset=True)], ClosedError),
        ([Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"), Close()], ClosedError),
        ([Send(STREAM_HEAD + chunk(b"abc")), Close()], ClosedError),
        ([Send(STREAM_HEAD + b"5\r\nab"), Close(reset=True)], ClosedError),
        ([Send(b"what?\r\n\r\n"), Hang()], MalformedError),
        ([Send(b"HTTP/1.1 200 OK\r\n"), Endless(b"X-More: more\r\n")], MalformedError),
        ([Send(STREAM_HEAD + b"x"), Hang()], MalformedError),
    ],
)
@pytest.mark.parametrize("every", [0, 1])
async def test_answers_that_go_wrong(pool: Pool, script: Script, error: type[Exception], every: int) -> None:
    steps: Script = [Send(step.data, every) if isinstance(step, Send) else step for step in script]
    async with FakeEngine(steps) as engine:
        with pytest.raises(error):
            await fetch(pool, engine)
        await until(lambda: pool.open_connections == 0)


async def test_what_came_before_an_answer_broke_off_can_be_read(pool: Pool) -> None:
    async with FakeEngine([Send(STREAM_HEAD + chunk(b"abc")), Close()]) as engine:
        exchange = pool.exchange(engine.address, "POST", "/")
        await exchange.start()
        assert await exchange.read() == b"abc"
        with pytest.raises(ClosedError):
            await exchange.read()


async def test_a_closed_pool_ends_what_runs_and_begins_nothing() -> None:
    pool = Pool()
    async with FakeEngine([Hang()]) as engine:
        waiting = asyncio.create_task(fetch(pool, engine))
        await engine.until(lambda engine: len(engine.requests) == 1)
        await pool.aclose()
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ConnectError, match="pool is closed"):
            await fetch(pool, engine)
        await until(lambda: pool.open_connections == 0)


@pytest.mark.parametrize("bad", ["a\r\nb", "a\nb", "a\rb"])
async def test_a_line_break_cannot_get_into_the_head(pool: Pool, bad: str) -> None:
    for path, header in ((f"/{bad}", b"x"), ("/", bad.encode())):
        with pytest.raises(ValueError, match="line break"):
            pool.exchange(("127.0.0.1", 1), "GET", path, [(b"x", header)])


async def test_chunks_are_handed_out_together_when_they_wait_together(pool: Pool) -> None:
    async with FakeEngine([Send(STREAM_HEAD + chunk(b"a") + chunk(b"b") + STREAM_END)]) as engine:
        exchange = pool.exchange(engine.address, "POST", "/")
        await exchange.start()
        await until(lambda: exchange.backlog == 2)
        assert await exchange.read() == b"ab"
        assert await exchange.read() == b""
