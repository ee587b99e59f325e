"""A worker's file listener behind a real gateway, for tests of whoever asks it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn

from stoker.certificates import Authority
from stoker.domain.files import Peer
from stoker.mesh.wire import ANY_WORKER, FILES_SERVICE
from tests.worker_agent.mesh.folders import NOW, enrol
from worker_agent.file_server import HeldFile, file_app, file_listener
from worker_agent.mesh.gateway_process import GatewayProcess
from worker_agent.mesh.grants import Grants


class Mesh:
    """A cluster's authority, and the folders of its members below `root`."""

    def __init__(self, root: Path) -> None:
        self._root, self.authority = root, Authority.new(NOW)

    def folder(self, holder: str) -> Path:
        """The mesh folder of "worker/w1", with its key and certificate."""
        folder = self._root / holder.replace("/", "-")
        enrol(folder, holder, self.authority)
        return folder


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def files_behind_gateway(mesh: Mesh, worker: str, held: HeldFile) -> AsyncIterator[Peer]:
    """The worker's listener and its gateway; how others reach it."""
    folder = mesh.folder(f"worker/{worker}")
    gateway = GatewayProcess(folder, "127.0.0.1", 0, folder.with_name(f"{folder.name}-state"))
    (folder.with_name(f"{folder.name}-state")).mkdir(exist_ok=True)
    with file_listener(folder) as listener:
        Grants(folder).grant(FILES_SERVICE, listener.getsockname(), [ANY_WORKER])
        server = _Server(uvicorn.Config(file_app(held), log_config=None, access_log=False, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield Peer(worker=worker, address="127.0.0.1", mesh_port=await gateway.ensure())
        finally:
            await gateway.stop()
            server.should_exit = server.force_exit = True
            await serving
