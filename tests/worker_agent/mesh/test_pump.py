"""Carrying between a plain socket and a TLS one, in one process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from stoker.certificates import Authority
from stoker.mesh.identity import MeshIdentity
from tests.worker_agent.mesh.folders import NOW, enrol
from worker_agent.mesh.pump import pump
from worker_agent.mesh.secure_socket import SecureSocket

pytestmark = pytest.mark.anyio


class Ends(NamedTuple):
    client: SecureSocket  # on the other host
    secure: SecureSocket  # on this one
    plain: socket.socket
    engine: socket.socket  # at the plain socket's other end


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    authority = Authority.new(NOW)
    for holder in ("server", "worker/w1"):
        enrol(tmp_path / holder, holder, authority)
    with ExitStack() as stack:
        sockets = [stack.enter_context(one) for _ in range(2) for one in socket.socketpair()]
        for one in sockets:
            one.setblocking(False)
        client = SecureSocket(sockets[0], MeshIdentity(tmp_path / "server").for_client(), server_side=False)
        secure = SecureSocket(sockets[1], MeshIdentity(tmp_path / "worker" / "w1").for_gateway(), server_side=True)
        async with asyncio.timeout(30):
            await asyncio.gather(client.handshake(), secure.handshake())
        yield Ends(client, secure, sockets[2], sockets[3])


async def test_who_takes_no_answers_is_not_read_on(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    answers = 8 * 1024 * 1024  # bytes, of TLS itself: such as it gives to a change of keys
    ends.secure.outgoing.write(bytes(answers // 2))
    carrying = asyncio.create_task(pump(ends.plain, ends.secure))
    await asyncio.sleep(0)
    assert not ends.secure.outgoing.pending, "it is on its way, and more of it comes"
    ends.secure.outgoing.write(bytes(answers // 2))
    await ends.client.write(b"ping")
    assert await loop.sock_recv(ends.engine, 100) == b"ping"
    await ends.client.write(b"pong")
    arriving = asyncio.create_task(loop.sock_recv(ends.engine, 100))
    done, _ = await asyncio.wait((arriving,), timeout=0.3)
    assert not done
    taken = 0
    async with asyncio.timeout(30):
        while taken < answers:
            taken += len(await loop.sock_recv(ends.client.connection, 1 << 20))
        assert await arriving == b"pong"
    carrying.cancel()
    with suppress(asyncio.CancelledError):
        await carrying
