"""The API's way to a service: what becomes of a connection whose caller goes away meanwhile."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stoker.certificates import Authority
from stoker.mesh import client as module
from stoker.mesh.client import connect_through
from stoker.mesh.identity import MeshError, MeshIdentity
from stoker.mesh.ways import GatewayService
from stoker.mesh.wire import OPENED
from tests.worker_agent.mesh.folders import NOW, enrol

pytestmark = pytest.mark.anyio
SERVICE = "main/chat-x.1"


class Gate:
    """A gateway that grants everything, and sees whether the connection ends."""

    def __init__(self, folder: Path) -> None:
        self._identity = MeshIdentity(folder)
        self.ended = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> "Gate":
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._identity.for_gateway())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(OPENED)
        try:
            await reader.read()
        except (OSError, ssl.SSLError):
            pass
        finally:
            self.ended.set()
            writer.close()


class Listening(asyncio.Protocol):
    """What a caller would have."""


@contextmanager
def ending_as_it_opens(monkeypatch: pytest.MonkeyPatch, task: "list[asyncio.Task[object]]") -> Iterator[None]:
    """Cancels the task at the very moment at which the gateway's word arrives."""
    heard = module._Greeting.data_received

    def and_then_cancel(self: module._Greeting, data: bytes) -> None:
        heard(self, data)
        task[0].cancel()

    with monkeypatch.context() as patched:
        patched.setattr(module._Greeting, "data_received", and_then_cancel)
        yield


@pytest.mark.parametrize(("host", "port"), [("a..b", 8411), ("x" * 70, 8411), ("127.0.0.2", 99_999)])
async def test_an_address_that_is_none(tmp_path: Path, host: str, port: int) -> None:
    enrol(tmp_path / "server", "server", Authority.new(NOW))
    with pytest.raises(MeshError, match=r"the gateway of w1 \(.*\) cannot be reached: ."):
        await connect_through(MeshIdentity(tmp_path / "server"), GatewayService(host, port, "w1", SERVICE), Listening)


async def test_who_goes_away_as_the_way_opens_leaves_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.new(NOW)
    enrol(tmp_path / "w1", "worker/w1", authority)
    enrol(tmp_path / "server", "server", authority)
    async with Gate(tmp_path / "w1") as gate:
        target = GatewayService("127.0.0.1", gate.port, "w1", SERVICE)
        tasks: list[asyncio.Task[object]] = []
        with ending_as_it_opens(monkeypatch, tasks):
            tasks.append(asyncio.create_task(connect_through(MeshIdentity(tmp_path / "server"), target, Listening)))
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
        async with asyncio.timeout(10):
            await gate.ended.wait()
