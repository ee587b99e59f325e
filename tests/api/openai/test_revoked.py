"""Connections through a gateway whose worker is removed: they end, in the middle of an answer too."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.openai import upstream as module
from api.openai.connection import UpstreamError
from api.openai.upstream import Pool
from stoker.certificates import Authority
from stoker.mesh.identity import MeshIdentity
from stoker.mesh.ways import GatewayService
from tests.cluster import eventually_async
from tests.worker_agent.mesh.folders import NOW, enrol, revoke

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart of it"


class Hosts:
    """Two workers, each with a gateway that opens whatever is asked and begins an answer without an end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority.new(NOW)
        self.ways: dict[str, GatewayService] = {}
        self.serials: dict[str, str] = {}
        self._servers: list[asyncio.Server] = []
        self._ends: list[asyncio.StreamWriter] = []

    async def open(self, name: str) -> None:
        """Starts one."""
        self.serials[name] = enrol(self.folder / name, f"worker/{name}", self.authority)
        tls = MeshIdentity(self.folder / name).for_gateway()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=tls)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        self.ways[name] = GatewayService("127.0.0.1", port, name, "main/llama-a.1")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        await reader.readuntil(b"\n")
        writer.write(b"+\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)

    async def close(self) -> None:
        """Ends them all."""
        for end in self._ends:
            end.transport.abort()
        for server in self._servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    """`w1` and `w2`."""
    made = Hosts(tmp_path)
    for name in ("w1", "w2"):
        await made.open(name)
    yield made
    await made.close()


async def test_an_answer_of_a_removed_worker_ends_and_the_others_go_on(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REVOKED_SECONDS", 0.01)
    enrol(tmp_path / "server", "server", hosts.authority)
    pool = Pool(MeshIdentity(tmp_path / "server"))
    watching = asyncio.create_task(pool.watch_revoked())
    exchanges = {name: pool.exchange(hosts.ways[name], "GET", "/") for name in ("w1", "w2")}
    for exchange in exchanges.values():
        await exchange.start()
        assert await exchange.read() == b"part of it"
    assert pool.open_connections == 2

    revoke(tmp_path / "server", hosts.serials["w1"])
    with pytest.raises(UpstreamError):
        await asyncio.wait_for(exchanges["w1"].read(), 30)

    async def is_alone() -> bool:
        return pool.open_connections == 1

    await eventually_async(is_alone, "the connection is gone")
    with pytest.raises(UpstreamError, match="shows a certificate that was revoked"):
        await pool.exchange(hosts.ways["w1"], "GET", "/").start()
    await pool.exchange(hosts.ways["w2"], "GET", "/").start()
    assert exchanges["w2"].status == 200
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await pool.aclose()
