"""Model files from another worker: over its gateway, by the agent's file listener behind it. Blocking."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlencode

from stoker.domain.files import Peer
from stoker.domain.models import ModelFile
from stoker.domain.units import MIB, format_bytes
from stoker.mesh.identity import MeshError, MeshIdentity
from stoker.mesh.wire import FILES_SERVICE, Verb
from worker_agent.mesh.secure_socket import SecureSocket
from worker_agent.mesh.way import open_way

SILENT_SECONDS = 10.0
"""So long a peer may send nothing, at the beginning and in between."""
LOOK_SECONDS = 15.0
LEAST_RATE = MIB
"""A peer that brings fewer bytes a second than this, over LOOK_SECONDS, is left for the hub."""

_BLOCK = 256 * 1024  # bytes
_LONGEST_HEAD = 8192  # bytes
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,18}) *\r\n", re.IGNORECASE)


class PeerFailedError(Exception):
    """The peer does not give the file, or too slowly: it is to be had elsewhere."""


class PeerSource:
    """One worker that holds the model. Once it has `failed`, it is not to be asked again. Fit for any thread."""

    def __init__(self, peer: Peer, mesh_folder: Path) -> None:
        """`mesh_folder` holds this worker's own identity."""
        self._peer, self._mesh_folder = peer, mesh_folder
        self.failed = False

    @property
    def name(self) -> str:
        """The worker's."""
        return self._peer.worker

    def receive(self, model: str, file: ModelFile, start: int, take: Callable[[bytes], None]) -> None:
        """Hands the file's bytes from `start` on to `take`, in order, to its end.

        `model` is its key (`ModelFiles.key`). Raises PeerFailedError, and what `take` raises.
        """
        try:
            asyncio.run(self._receive(model, file, start, take))
        except PeerFailedError:
            self.failed = True
            raise

    async def _receive(self, model: str, file: ModelFile, start: int, take: Callable[[bytes], None]) -> None:
        async with aclosing(self._blocks(model, file, start)) as blocks:
            async for block in blocks:
                take(block)

    async def _blocks(self, model: str, file: ModelFile, start: int) -> AsyncGenerator[bytes, None]:
        """What the peer sends, exactly as much as is missing. Raises PeerFailedError."""
        identity, peer = MeshIdentity(self._mesh_folder), self._peer
        try:
            way = await open_way(identity, peer.worker, peer.address, peer.mesh_port, Verb.OPEN, FILES_SERVICE)
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    await way.write(_request(model, file.path, start))
                    missing, block = await _read_head(way, start)
                if missing != file.size - start:
                    raise PeerFailedError(f"its file ends after {start + missing} bytes, and should after {file.size}")
                looked, arrived = time.monotonic(), 0
                while missing > 0:
                    if block:
                        block = block[:missing]
                        missing, arrived = missing - len(block), arrived + len(block)
                        yield block
                    if (passed := time.monotonic() - looked) >= LOOK_SECONDS:
                        if arrived < LEAST_RATE * passed:
                            raise PeerFailedError(f"it brings no more than {format_bytes(int(arrived / passed))}/s")
                        looked, arrived = time.monotonic(), 0
                    if missing > 0:
                        async with asyncio.timeout(SILENT_SECONDS):
                            block = await way.read(_BLOCK)
                        if not block:
                            raise PeerFailedError(f"it ended {format_bytes(missing)} too early")
            finally:
                way.close()
        except TimeoutError:
            raise PeerFailedError(f"it was silent for {SILENT_SECONDS:.0f} s") from None
        except (OSError, MeshError) as error:
            raise PeerFailedError(str(error) or type(error).__name__) from error


def _request(model: str, path: str, start: int) -> bytes:
    query = urlencode({"model": model, "path": path})
    lines = (f"GET /files?{query} HTTP/1.1", "Host: files", f"Range: bytes={start}-", "Connection: close", "", "")
    return "\r\n".join(lines).encode()


async def _read_head(way: SecureSocket, start: int) -> tuple[int, bytes]:
    """How many bytes follow, and the first of them. Raises PeerFailedError where they do not begin at `start`."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        block = await way.read(_LONGEST_HEAD)
        answer += block
        if not block or len(answer) > 2 * _LONGEST_HEAD + _BLOCK:
            raise PeerFailedError("its answer is none of HTTP")
    head, _, content = answer.partition(b"\r\n\r\n")
    status, length = _STATUS.match(head), _LENGTH.search(head + b"\r\n")
    if status is None or length is None:
        raise PeerFailedError("its answer is none of HTTP")
    if status[1] != b"206" and not (status[1] == b"200" and start == 0):
        raise PeerFailedError(f"it answered {status[1].decode()}")
    return int(length[1]), content
