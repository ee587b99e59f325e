"""Small writes wait for the end of the loop's turn, in order, and only where others share it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.outbox import FEW, MAX_PIECE_BYTES, MAX_WAITING_BYTES, Outbox, outbox

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """A transport, and the socket at its other end, which does not block."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    try:
        yield transport, theirs
    finally:
        transport.abort()
        theirs.close()


def arrived(end: socket.socket) -> bytes:
    """What has come so far."""
    try:
        return end.recv(1 << 20)
    except BlockingIOError:
        return b""


@pytest.fixture
def busy() -> Outbox:
    found = Outbox()
    found.requests = FEW + 1
    return found


async def test_what_is_written_in_one_turn_goes_out_at_its_end_and_in_order(busy: Outbox) -> None:
    async with connected() as (one, its_end), connected() as (other, other_end):
        busy.write(one, b"a")
        busy.write(other, b"b")
        busy.write(one, b"c")
        assert (arrived(its_end), arrived(other_end)) == (b"", b"")
        await asyncio.sleep(0)
        assert (arrived(its_end), arrived(other_end)) == (b"ac", b"b")
        busy.write(one, b"d")
        await asyncio.sleep(0)
        assert arrived(its_end) == b"d"


async def test_few_requests_wait_for_nobody(busy: Outbox) -> None:
    busy.requests = FEW
    async with connected() as (transport, end):
        busy.write(transport, b"a")
        assert arrived(end) == b"a"


async def test_who_is_alone_again_still_writes_behind_what_waits(busy: Outbox) -> None:
    async with connected() as (transport, end):
        busy.write(transport, b"a")
        busy.requests = FEW
        busy.write(transport, b"b")
        assert arrived(end) == b"ab"


async def test_a_large_piece_is_written_at_once_behind_what_waits(busy: Outbox) -> None:
    large = b"x" * (MAX_PIECE_BYTES + 1)
    async with connected() as (transport, end):
        busy.write(transport, b"a")
        busy.write(transport, large)
        assert arrived(end) == b"a" + large
        await asyncio.sleep(0)
        assert arrived(end) == b""


async def test_no_more_waits_than_may(busy: Outbox) -> None:
    pieces = MAX_WAITING_BYTES // MAX_PIECE_BYTES
    async with connected() as (transport, end):
        for _ in range(pieces):
            busy.write(transport, b"x" * MAX_PIECE_BYTES)
        assert arrived(end) == b""
        busy.write(transport, b"y")
        assert len(arrived(end)) == pieces * MAX_PIECE_BYTES + 1


async def test_what_was_for_a_closed_connection_is_dropped_and_the_rest_is_written(busy: Outbox) -> None:
    async with connected() as (gone, its_end), connected() as (other, other_end):
        busy.write(gone, b"a")
        busy.write(other, b"b")
        gone.abort()
        busy.flush()
        assert (arrived(its_end), arrived(other_end)) == (b"", b"b")


async def test_a_loop_has_one_of_its_own() -> None:
    async def found() -> Outbox:
        return outbox()

    assert outbox() is outbox()
    assert await asyncio.to_thread(asyncio.run, found()) is not outbox()
