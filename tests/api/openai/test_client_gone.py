"""Clients that go: the engine's work ends with them, whatever it was at."""

import asyncio

import pytest

from api.openai.proxy import ProxyLimits
from tests.api.openai.cluster import OK, REFUSING, cluster, is_at_rest
from tests.api.openai.serving import Routes, model, open_door, until
from tests.fakes.engine import (
    STREAM_END,
    STREAM_HEAD,
    Endless,
    FakeEngine,
    Gate,
    Hang,
    Script,
    Send,
    answer,
    chunk,
    delta,
)

pytestmark = pytest.mark.anyio

WINDOWS: dict[str, tuple[Script, bool]] = {
    "before the head": ([Hang()], True),
    "before the head, in one piece": ([Hang()], False),
    "in the head": ([Send(b"HTTP/1.1 200 OK\r\n"), Hang()], True),
    "before the first event": ([Send(STREAM_HEAD + chunk(b"data: {")), Hang()], True),
    "in mid-stream": ([Send(STREAM_HEAD + chunk(delta("hi"))), Hang()], True),
    "while events come": ([Send(STREAM_HEAD), Endless(chunk(delta("hi")))], True),
    "in an answer in one piece": ([Send(answer(b"x" * 100)[:-50]), Hang()], False),
    "in a large answer in one piece": ([Send(answer(b"x" * 10_000_000)[:-50]), Hang()], False),
}


@pytest.mark.parametrize(("script", "stream"), WINDOWS.values(), ids=WINDOWS)
async def test_a_client_that_goes_ends_the_engines_work(script: Script, stream: bool) -> None:
    async with cluster(script, OK) as (door, engines):
        asking = asyncio.create_task(door.chat(stream=stream))
        await engines[0].until(lambda engine: len(engine.requests) == 1)
        if script != [Hang()]:
            await until(lambda: engines[0].written > 0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await engines[0].until(lambda engine: engine.gone == 1)
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="gone") == 1
        assert len(engines[1].requests) == 0
        assert not door.app._proxy.balancer.is_out(engines[0].address)


async def test_a_stream_whose_engine_ends_late_does_not_hide_that_the_next_requests_client_goes() -> None:
    gate = Gate()
    done: Script = [Send(STREAM_HEAD + chunk(delta("hi") + b"data: [DONE]\n\n")), gate, Send(STREAM_END)]
    async with FakeEngine(done, [Hang()]) as engine, open_door([model(engine.address)]) as door:
        assert (await door.chat(stream=True)).status_code == 200
        asking = asyncio.create_task(door.chat())  # over the same connection, while the first is not settled yet
        await engine.until(lambda engine: len(engine.requests) == 2)
        gate.event.set()
        await until(lambda: door.metric("stoker_requests_running", model="m") == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await engine.until(lambda engine: engine.gone == 1)
        await until(lambda: is_at_rest(door, engine))
        assert len(door.app._proxy.slow_readers) == 0


@pytest.mark.parametrize("size", [100, 200_000], ids=["small", "more than the server reads ahead"])
async def test_it_is_heard_however_large_the_request_was(size: int) -> None:
    async with cluster([Hang()]) as (door, [engine]):
        asking = asyncio.create_task(door.chat(messages=[{"role": "user", "content": "x" * size}]))
        await engine.until(lambda engine: len(engine.requests) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await engine.until(lambda engine: engine.gone == 1)
        await until(lambda: is_at_rest(door, engine))


async def test_a_client_that_goes_while_the_table_is_read_reaches_no_engine() -> None:
    async with FakeEngine(OK) as engine:
        routes = Routes(model(REFUSING))
        routes.hangs = True
        async with open_door(routes, limits=ProxyLimits(refresh_time=0.2)) as door:
            asking = asyncio.create_task(door.chat())
            await until(lambda: routes.refreshes == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            routes.table = routes.table.model_copy(update={"models": {"m": model(engine.address)}})
            await until(lambda: is_at_rest(door, engine))
            assert engine.requests == []


async def test_a_slow_client_makes_the_engine_wait() -> None:
    async with cluster([Send(STREAM_HEAD), Endless(chunk(delta("x" * 1000)))]) as (door, [engine]):
        body = {"model": "m", "messages": [{}], "stream": True}
        async with door.client.stream("POST", "/v1/chat/completions", json=body):
            written = -1
            async with asyncio.timeout(20):
                while written != engine.written:  # until nothing fits into any buffer on the way
                    written = engine.written
                    await asyncio.sleep(0.1)
            assert 0 < written < 64 * 1024 * 1024
        await engine.until(lambda engine: engine.gone == 1)
