"""Hosts that are played: the agent's own parts, over engines that are ready at once and files that are there.

Real are the joining and the reports over HTTP, the queues with their pollers, the activities, and the journal of their
attempts. Nothing is started, nothing is loaded, and no disk is read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from temporalio.client import Client

from activities.ports import (
    DownloadProgress,
    ModelStore,
    ProcessKey,
    ProcessPhase,
    ProcessSpec,
    ProcessStatus,
    ProcessSupervisor,
)
from entrypoints.host_workers import host_workers
from stoker.domain.base import InstanceId
from stoker.domain.files import Peer
from stoker.domain.gguf import ModelProfile
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Device, DeviceKind
from tests.builders import make_device, make_layer, make_profile, make_worker
from worker_agent.attempts import AttemptJournal
from worker_agent.control_api import ControlApi
from worker_agent.heartbeat import Heartbeat
from worker_agent.model_store import HostModelStore
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor

GPU_BYTES = 24 * GIB
LAYERS, LAYER_SIZE = 32, 700 * MIB  # one instance takes a GPU, and what is left of it holds no layer


class ReadyEngines:
    """A supervisor whose engines are ready as soon as they are asked for, and never end by themselves."""

    def __init__(self) -> None:
        self._there: dict[ProcessKey, ProcessStatus] = {}

    async def ensure_started(self, spec: ProcessSpec) -> ProcessStatus:
        """It is there."""
        ready = ProcessStatus(phase=ProcessPhase.READY, pid=1, port=1)
        return self._there.setdefault(spec.key, ready)

    async def watch(self, key: ProcessKey) -> AsyncGenerator[ProcessStatus, None]:
        """Ready, and so for ever."""
        yield self._there[key]
        await asyncio.Event().wait()

    async def measure(self, key: ProcessKey) -> MeasuredMemory | None:
        """Not known."""
        return None

    async def drain(self, key: ProcessKey, settle_seconds: float, timeout_seconds: float) -> bool:
        """Nobody asks it anything."""
        return True

    async def kill(self, key: ProcessKey) -> None:
        """It is gone."""
        self._there.pop(key, None)

    def statuses(self) -> dict[ProcessKey, ProcessStatus]:
        """All that are there."""
        return dict(self._there)

    async def reap(
        self, keep: Collection[ProcessKey], among: Collection[ProcessKey] | None = None
    ) -> tuple[ProcessKey, ...]:
        """Those of `among` that are not to be kept are gone."""
        doomed = tuple(key for key in self._there if (among is None or key in among) and key not in keep)
        for key in doomed:
            del self._there[key]
        return doomed


class HeadersOnly:
    """A host's files, of which there is nothing but what their headers say: a model for one GPU."""

    async def inspect(self, path: str) -> tuple[ModelFiles, ModelProfile]:
        """The same model under every name."""
        profile = make_profile(name=path, layers=(make_layer(weights=LAYER_SIZE),) * LAYERS)
        size = LAYERS * LAYER_SIZE + profile.input_weights + profile.output_weights
        files = (ModelFile(path=path, size=size),)
        return ModelFiles(source=ModelSource.parse(f"file:{path}"), files=files), profile

    async def fetch(
        self, files: ModelFiles, *, user: InstanceId = "", peers: Sequence[Peer] = (), keep: Sequence[str] = ()
    ) -> AsyncGenerator[DownloadProgress, None]:
        """They are there."""
        yield DownloadProgress(done=files.size, total=files.size)

    async def evict(self, model: str, *, force: bool = False) -> int:
        """There is nothing to take away."""
        return 0

    def local_path(self, files: ModelFiles) -> str:
        """Where they would be."""
        return files.files[0].path


class PlayedHost:
    """One host with its agent: joined, reporting and taking work while it is entered."""

    def __init__(self, url: str, join_token: str, name: str, folder: Path, devices: Callable[[], list[Device]]) -> None:
        """`url`: the API's; `folder`: where the agent keeps its identity; `devices` looks at them now."""
        self.name, self._folder = name, folder / name
        self.engines = ReadyEngines()
        self._api = ControlApi(url, name, join_token, self._folder / "identity.json")
        self._board = ProgressBoard()
        self._supervisor = _as_supervisor(self.engines)
        self._heartbeat = Heartbeat(
            self._api, lambda: make_worker(name=name, devices=tuple(devices())), self._supervisor, self._board
        )

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator["PlayedHost"]:
        """Its life. Raises at its end what ended the reports."""
        journal, store = AttemptJournal(self._folder / "attempts"), _as_store(HeadersOnly())
        control, download = host_workers(
            client, self.name, self._supervisor, store, self._board, interceptors=[journal]
        )
        await self._heartbeat.join()
        async with control, download:
            reports = asyncio.create_task(self._heartbeat.run())
            try:
                yield self
            finally:
                reports.cancel()
                with suppress(asyncio.CancelledError):
                    await reports
                await self._api.close()

    async def report(self) -> None:
        """One report more. Returns when it was answered."""
        await self._heartbeat.report_once()


def _as_supervisor(played: ProcessSupervisor) -> HostSupervisor:
    """The agent's parts are wired with its own classes: of these they use what the ports say, and what is played."""
    return cast(HostSupervisor, played)


def _as_store(played: ModelStore) -> HostModelStore:
    return cast(HostModelStore, played)


def gpus(count: int, *, used: int = 0) -> list[Device]:
    """The devices of a host with so many GPUs; `used`: bytes of each that others have."""
    found = [make_device(id=f"gpu{n}", engine_name=f"CUDA{n}", total=GPU_BYTES, used=used) for n in range(count)]
    return [*found, make_device(kind=DeviceKind.CPU, total=1024 * GIB)]
