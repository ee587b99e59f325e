"""The client for the hop to an engine, against engines that do as they please."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from api.openai.connection import (
    MAX_BACKLOG_BYTES,
    AbortedError,
    ClosedError,
    ConnectError,
    DeadlineError,
    MalformedError,
)
from api.openai.exchange import Exchange, Timeouts
from api.openai.upstream import Pool
from tests.api.openai.recordings import recorded, recorded_body
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


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    await pool.aclose()
    assert pool.open_connections == 0


async def fetch(pool: Pool, engine: FakeEngine, body: bytes = b"{}", **options: object) -> bytes:
    exchange = pool.exchange(engine.address, "POST", "/v1/x", body=body, **options)  # type: ignore[arg-type]
    await exchange.start()
    return await exchange.read_all(1 << 30)


async def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Looks again whenever the loop has done something."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


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


@pytest.mark.parametrize(
    ("script", "timeouts", "phase"),
    [
        ([Hang()], Timeouts(first_byte=0.05), "first_byte"),
        ([Send(b"HTTP/1.1 2"), Hang()], Timeouts(first_byte=0.05), "first_byte"),
        ([Send(STREAM_HEAD), Hang()], Timeouts(idle=0.05), "idle"),
        ([Send(STREAM_HEAD + chunk(b"abc")), Hang()], Timeouts(idle=0.05), "idle"),
    ],
)
async def test_an_engine_that_stops_talking(pool: Pool, script: Script, timeouts: Timeouts, phase: str) -> None:
    async with FakeEngine(script) as engine:
        with pytest.raises(DeadlineError) as caught:
            await fetch(pool, engine, timeouts=timeouts)
        assert caught.value.phase == phase
        await engine.until(lambda engine: engine.gone == 1)


async def test_an_engine_that_talks_for_ever(pool: Pool) -> None:
    async with FakeEngine([Send(STREAM_HEAD), Endless(chunk(b"abc"))]) as engine:
        deadline = asyncio.get_running_loop().time() + 0.1
        exchange = pool.exchange(engine.address, "POST", "/", timeouts=Timeouts(idle=0.05), deadline=deadline)
        await exchange.start()
        with pytest.raises(DeadlineError) as caught:
            await exchange.read_all(1 << 40)
        assert caught.value.phase == "total"
        await engine.until(lambda engine: engine.gone == 1)


async def test_no_request_is_sent_after_its_deadline(pool: Pool) -> None:
    async with FakeEngine([Send(OK)]) as engine:
        with pytest.raises(DeadlineError) as caught:
            await fetch(pool, engine, deadline=asyncio.get_running_loop().time())
        assert caught.value.phase == "total"
        assert engine.requests == []


async def test_a_body_longer_than_wanted_is_not_read_on(pool: Pool) -> None:
    async with FakeEngine([Send(STREAM_HEAD), Endless(chunk(b"x" * 1000))]) as engine:
        exchange = pool.exchange(engine.address, "POST", "/")
        await exchange.start()
        with pytest.raises(MalformedError, match="longer than 5000 bytes"):
            await exchange.read_all(5000)
        await engine.until(lambda engine: engine.gone == 1)


async def test_a_slow_reader_makes_the_engine_wait_and_loses_nothing(pool: Pool) -> None:
    async with FakeEngine([Send(answer(b"x" * LARGE))]) as engine:
        exchange = pool.exchange(engine.address, "POST", "/", timeouts=Timeouts(idle=0.05))
        await exchange.start()
        await until(lambda: exchange.backlog > MAX_BACKLOG_BYTES)
        held = exchange.backlog
        await asyncio.sleep(0.2)  # longer than the idle deadline: waiting for us is not the engine's silence
        assert exchange.backlog == held <= MAX_BACKLOG_BYTES + 1024 * 1024
        assert engine.written == 0  # it is still busy with its one large piece
        assert len(await exchange.read_all(LARGE)) == LARGE
        assert await fetch(pool, engine) == b"x" * LARGE  # and the connection is as good as new
        assert engine.connections == 1


async def test_a_large_request_waits_for_a_slow_engine_and_arrives_whole(pool: Pool) -> None:
    reads = asyncio.Event()
    async with FakeEngine([Send(OK)], before_body=reads) as engine:
        sending = asyncio.create_task(fetch(pool, engine, body=b"y" * LARGE))
        await until(lambda: engine.connections == 1)
        await asyncio.sleep(0.05)
        assert not sending.done()
        reads.set()
        assert await sending == b'{"fine":true}'
        assert engine.requests[0].body == b"y" * LARGE


async def test_an_answer_before_the_request_was_taken_is_read_and_the_connection_not_kept(pool: Pool) -> None:
    early = answer(b"too large", "413 Payload Too Large")

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(early)
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    closed = asyncio.Event()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    exchange = pool.exchange(server.sockets[0].getsockname()[:2], "POST", "/", body=b"y" * LARGE)
    await exchange.start()
    assert exchange.status == 413
    assert await exchange.read_all(100) == b"too large"
    await until(lambda: pool.open_connections == 0)
    await closed.wait()
    server.close()
    await server.wait_closed()


async def started(exchange: Exchange) -> None:
    await exchange.start()


@pytest.mark.parametrize("script", [[Hang()], [Send(b"HTTP/1.1 200 OK\r\n"), Hang()]])
async def test_giving_up_while_waiting_for_the_head_reaches_the_engine(pool: Pool, script: Script) -> None:
    async with FakeEngine(script) as engine:
        exchange = pool.exchange(engine.address, "POST", "/")
        waiting = asyncio.create_task(exchange.start())
        await engine.until(lambda engine: len(engine.requests) == 1)
        exchange.abort()
        with pytest.raises(AbortedError):
            await waiting
        await engine.until(lambda engine: engine.gone == 1)


async def test_giving_up_in_the_middle_reaches_the_engine_and_what_was_not_read_is_dropped(pool: Pool) -> None:
    async with FakeEngine([Send(STREAM_HEAD + chunk(b"abc")), Hang()]) as engine:
        exchange = pool.exchange(engine.address, "POST", "/")
        await exchange.start()
        await until(lambda: exchange.backlog == 3)
        exchange.abort()
        exchange.abort()
        with pytest.raises(AbortedError):
            await exchange.read()
        await engine.until(lambda engine: engine.gone == 1)


async def test_what_was_given_up_before_it_began_is_never_sent(pool: Pool) -> None:
    async with FakeEngine([Send(OK)]) as engine:
        await fetch(pool, engine)
        exchange = pool.exchange(engine.address, "POST", "/")
        exchange.abort()
        with pytest.raises(AbortedError):
            await exchange.start()
        connecting = Pool().exchange(engine.address, "POST", "/")
        waiting = asyncio.create_task(connecting.start())
        await asyncio.sleep(0)  # it connects now
        connecting.abort()
        with pytest.raises(AbortedError):
            await waiting
        assert len(engine.requests) == 1


async def test_giving_up_at_the_moment_that_a_kept_connection_dies_sends_nothing_again(pool: Pool) -> None:
    gate = Gate()
    async with FakeEngine([Send(OK)], [gate, Close()], [Send(OK)]) as engine:
        await fetch(pool, engine)
        exchange = pool.exchange(engine.address, "POST", "/")
        waiting = asyncio.create_task(exchange.start())
        await engine.until(lambda engine: len(engine.requests) == 2)
        exchange.failed(ClosedError("as the connection would say"))
        exchange.abort()
        with pytest.raises(AbortedError):
            await waiting
        assert len(engine.requests) == 2


async def test_giving_up_after_the_end_keeps_the_connection(pool: Pool) -> None:
    async with FakeEngine([Send(OK)]) as engine:
        exchange = pool.exchange(engine.address, "POST", "/")
        await exchange.start()
        await exchange.read_all(1000)
        exchange.abort()
        await fetch(pool, engine)
        assert engine.connections == 1


async def test_cancelling_ends_the_exchange(pool: Pool) -> None:
    async with FakeEngine([Hang()]) as engine:
        waiting = asyncio.create_task(fetch(pool, engine))
        await engine.until(lambda engine: len(engine.requests) == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await engine.until(lambda engine: engine.gone == 1)


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
