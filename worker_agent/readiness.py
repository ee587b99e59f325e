"""How processes are seen to become ready: by what they answer, where they listen, or what they write."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
from pydantic import TypeAdapter, ValidationError

from stoker.domain.base import Value
from worker_agent.pids import listening_port, resident_bytes
from worker_agent.processes import Observation


class AnswersHealth:
    """A main server: it listens, loads, and then answers /health with 200."""

    def __init__(self, client: httpx.AsyncClient, model_size: int) -> None:
        """`client`: its base address is the engines' host. `model_size`: bytes of the model's files."""
        self._client, self._model_size = client, model_size
        self._empty = 0  # bytes that it held before it loaded anything

    async def look(self, pid: int, port: int) -> tuple[Observation, str]:
        """See `Readiness`."""
        port = port or await asyncio.to_thread(listening_port, pid)
        if not port:
            return Observation(), "a listening socket"
        waits_for = await self._ask_health(port)
        self._empty = self._empty or resident_bytes(pid)
        loaded = (resident_bytes(pid) - self._empty) / max(1, self._model_size)
        return Observation(port=port, healthy=not waits_for, loaded=loaded), waits_for

    async def _ask_health(self, port: int) -> str:
        try:
            answer = await self._client.get(self._client.base_url.copy_with(port=port, path="/health"))
        except httpx.HTTPError as error:
            return f"an answer to /health ({type(error).__name__})"
        return "" if answer.status_code == httpx.codes.OK else f"/health to answer 200 instead of {answer.status_code}"


class Listens:
    """An RPC server: it listens. Nobody connects to find out: it serves one client, and that is the main server."""

    def __init__(self, port: int) -> None:
        """`port`: where it was told to listen."""
        self._port = port

    async def look(self, pid: int, port: int) -> tuple[Observation, str]:
        """See `Readiness`."""
        found = port or await asyncio.to_thread(listening_port, pid)
        return Observation(port=found, healthy=found == self._port), f"it to listen on port {self._port}"


class _Ports(Value):
    ports: tuple[int, ...]


class WritesPorts:
    """A link: it writes its ports to a file as soon as the way to every peer is open."""

    def __init__(self, path: Path, listens: Callable[[int], int] = listening_port) -> None:
        """`path`: of that file. `listens`: the lowest port that a process listens on."""
        self._path, self._listens = path, listens

    async def look(self, pid: int, port: int) -> tuple[Observation, str]:
        """See `Readiness`. What an earlier process left in the file is not believed."""
        waits_for = "the way to every peer to be open"
        try:
            ports = _PORTS.validate_json(self._path.read_bytes()).ports
        except (FileNotFoundError, ValidationError):
            return Observation(), waits_for
        if not ports or await asyncio.to_thread(self._listens, pid) != min(ports):
            return Observation(), waits_for
        return Observation(port=ports[0], ports=ports, healthy=True), ""


_PORTS = TypeAdapter(_Ports)
