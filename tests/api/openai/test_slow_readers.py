"""Clients that do not take their answers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from api.openai.proxy import ProxyLimits
from api.openai.slow_readers import SlowReaders
from tests.api.openai.cluster import cluster, is_at_rest
from tests.api.openai.serving import KEY, Door, until
from tests.fakes.engine import DONE, STREAM_END, STREAM_HEAD, Endless, Gate, Script, Send, answer, chunk, delta

pytestmark = pytest.mark.anyio


class Client:
    """A connection whose buffer is what a test says."""

    lost = False

    def __init__(self) -> None:
        self.sent = 0
        self.held = 0
        self.aborted: list[int] = []  # with so much held

    def listen(self, on_lost: Callable[[], None] | None) -> None:
        pass

    def take_body(self) -> bytes | None:
        return None

    def reply(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        return False

    def buffered(self) -> int:
        return self.held

    def abort(self) -> None:
        self.aborted.append(self.held)


async def look(readers: SlowReaders, times: int = 1) -> None:
    """Lets it look so many times, without waiting for the time to pass."""
    for _ in range(times):
        assert readers._timer is not None
        readers._timer.cancel()
        readers._look()


async def test_a_client_that_takes_nothing_is_cut_after_the_fifth_look() -> None:
    readers, client = SlowReaders(60), Client()
    readers.watch(client, client)
    client.sent, client.held = 1000, 1010
    await look(readers, 4)
    assert client.aborted == []
    await look(readers)
    assert client.aborted == [1010]
    assert len(readers) == 0


@pytest.mark.parametrize("ended", [False, True])
async def test_a_client_that_takes_a_little_now_and_then_is_not(ended: bool) -> None:
    readers, client = SlowReaders(60), Client()
    readers.watch(client, client)
    client.sent, client.held = 100_000, 100_020
    if ended:
        readers.answered(client, client)
    for _ in range(6):
        await look(readers, 3)
        client.held -= 1
    await look(readers, 3)
    assert client.aborted == []


async def test_a_client_that_takes_as_much_as_comes_is_not_though_its_buffer_never_shrinks() -> None:
    readers, client = SlowReaders(60), Client()
    readers.watch(client, client)
    client.held = 50_000
    for _ in range(20):
        client.sent += 1000
        await look(readers)
    assert client.aborted == []


async def test_a_client_that_has_nothing_to_take_is_not() -> None:
    readers, client = SlowReaders(60), Client()
    readers.watch(client, client)
    await look(readers, 20)
    assert client.aborted == []


async def test_what_is_left_of_an_answer_that_is_over_is_watched_until_it_is_taken() -> None:
    readers, client = SlowReaders(60), Client()
    readers.watch(client, client)
    readers.answered(client, client)
    assert len(readers) == 0
    readers.watch(client, client)
    client.sent, client.held = 10, 20
    readers.answered(client, client)
    await look(readers)
    assert len(readers) == 1
    client.held = 0
    await look(readers)
    assert len(readers) == 0
    assert readers._timer is None, "nothing is looked at while there is nobody"


async def test_an_answer_that_ends_late_does_not_end_the_watch_over_the_next() -> None:
    readers, client = SlowReaders(60), Client()
    first, second = Client(), Client()
    readers.watch(client, first)
    readers.watch(client, second)
    readers.answered(client, first)
    assert len(readers) == 1
    readers.answered(client, second)
    assert len(readers) == 0


# --- through the door -------------------------------------------------------------------------------------------------

LIMITS = ProxyLimits(reader_time=0.4)


@asynccontextmanager
async def asking_and_reading_nothing(door: Door, *, stream: bool, size: int = 0) -> AsyncIterator[None]:
    """A client that asks and never reads."""
    body = b'{"model":"m","stream":%s,"messages":[{"role":"user","content":"%s"}]}' % (
        b"true" if stream else b"false",
        b"x" * size,
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
    host, port = door.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, head % (KEY.encode(), len(body)) + body)
        yield


@pytest.mark.parametrize("size", [0, 200_000], ids=["small request", "large request"])
async def test_a_stream_that_nobody_reads_is_cut_and_its_slot_is_free(size: int) -> None:
    script: Script = [Send(STREAM_HEAD), Endless(chunk(delta("x" * 10_000)))]
    async with cluster(script, limits=LIMITS) as (door, [engine]):
        async with asking_and_reading_nothing(door, stream=True, size=size):
            await engine.until(lambda engine: engine.gone == 1, timeout=20)
            await until(lambda: is_at_rest(door, engine))
        assert door.metric("stoker_requests_total", model="m", status_class="gone") == 1
        assert not door.app._proxy.balancer.is_out(engine.address), "the engine is not to blame"
        assert len(door.app._proxy.slow_readers) == 0


async def test_an_answer_in_one_piece_that_nobody_reads_does_not_stay_in_memory() -> None:
    limits = ProxyLimits(reader_time=0.4, held_answer_size=64 * 1024 * 1024)
    script: Script = [Send(answer(b"x" * 32_000_000))]
    async with cluster(script, limits=limits) as (door, [engine]), asking_and_reading_nothing(door, stream=False):
        await engine.until(lambda engine: len(engine.requests) == 1)
        await until(lambda: is_at_rest(door, engine))
        assert len(door.app._proxy.slow_readers) == 1, "the engine is free, and the answer waits"
        await until(lambda: len(door.app._proxy.slow_readers) == 0)


async def test_a_client_that_reads_late_gets_all_of_a_slow_stream() -> None:
    gate = Gate()
    script: Script = [Send(STREAM_HEAD + chunk(delta("one"))), gate, Send(chunk(delta("two") + DONE) + STREAM_END)]
    async with cluster(script, limits=ProxyLimits(reader_time=0.04)) as (door, _):
        body = {"model": "m", "messages": [{}], "stream": True}
        async with door.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == delta("one")
            looked: list[int] = []
            readers = door.app._proxy.slow_readers
            look_now = readers._look

            def counted() -> None:
                looked.append(1)
                look_now()

            readers._look = counted  # type: ignore[method-assign]
            await until(lambda: len(looked) > 10)
            gate.event.set()
            assert b"".join([piece async for piece in pieces]) == delta("two") + DONE
