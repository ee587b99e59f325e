"""One exchange with an engine: its deadlines, its pace, and giving it up."""

import asyncio
from contextlib import suppress

import pytest

from api.openai.connection import (
    MAX_BACKLOG_BYTES,
    AbortedError,
    ClosedError,
    DeadlineError,
    MalformedError,
)
from api.openai.exchange import Timeouts
from api.openai.upstream import Pool
from tests.api.openai.cluster import fetch
from tests.api.openai.serving import until
from tests.fakes.engine import (
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
