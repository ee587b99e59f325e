"""A file from another worker: what it may answer, and when it is given up."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.domain.files import Peer
from stoker.domain.models import ModelFile
from stoker.mesh.identity import MeshError
from worker_agent import peer_files
from worker_agent.peer_files import PeerFailedError, PeerSource

PEER = Peer(worker="w2", address="10.0.0.2", mesh_port=8411)
CONTENT = bytes(range(256)) * 4
FILE = ModelFile(path="Q4/m & n.gguf", size=len(CONTENT), sha256="0" * 64)
KEY = "hf:acme/tiny@" + "0" * 40 + "/Q4/m & n.gguf"


class Way:
    """The connection behind the gateway: `pieces` come one by one, then nothing more, or (`hangs`) nothing for ever."""

    def __init__(self, *pieces: bytes, hangs: bool = False) -> None:
        self._pieces, self._hangs = list(pieces), hangs
        self.asked, self.closed = b"", False

    async def write(self, data: bytes) -> None:
        self.asked += data

    async def read(self, limit: int) -> bytes:
        if not self._pieces:
            if self._hangs:
                await asyncio.Event().wait()
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > limit:
            self._pieces.insert(0, piece[limit:])
        return piece[:limit]

    def close(self) -> None:
        self.closed = True


def answer(start: int = 0, *, status: str = "206 Partial Content", length: int | None = None) -> bytes:
    size = len(CONTENT) - start if length is None else length
    return f"HTTP/1.1 {status}\r\nserver: uvicorn\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Way | Exception]]:
    """What the next ways are."""
    ways: list[Way | Exception] = []

    async def open_way(*_: object) -> Way:
        way = ways.pop(0)
        if isinstance(way, Exception):
            raise way
        return way

    monkeypatch.setattr(peer_files, "open_way", open_way)
    monkeypatch.setattr(peer_files, "SILENT_SECONDS", 0.2)
    yield ways
    assert ways == []


def receive(source: PeerSource, start: int = 0) -> bytes:
    received: list[bytes] = []
    source.receive(KEY, FILE, start, received.append)
    return b"".join(received)


@pytest.mark.parametrize(
    ("start", "pieces"),
    [
        (0, [answer() + CONTENT]),
        (0, [answer(), CONTENT]),
        (0, [answer(status="200 OK"), CONTENT]),
        (0, [answer()[:9], answer()[9:] + CONTENT[:1], CONTENT[1:500], CONTENT[500:]]),
        (1000, [answer(1000) + CONTENT[1000:]]),
        (0, [answer() + CONTENT + b"more than was told"]),
    ],
)
def test_all_that_is_missing_comes(tmp_path: Path, opened: list[Way], start: int, pieces: list[bytes]) -> None:
    way = Way(*pieces)
    opened.append(way)
    source = PeerSource(PEER, tmp_path)
    assert receive(source, start) == CONTENT[start:]
    assert (source.failed, source.name, way.closed) == (False, "w2", True)
    lines = way.asked.decode().split("\r\n")
    assert (
        lines[0]
        == f"GET /files?model=hf%3Aacme%2Ftiny%40{'0' * 40}%2FQ4%2Fm+%26+n.gguf&path=Q4%2Fm+%26+n.gguf HTTP/1.1"
    )
    assert f"Range: bytes={start}-" in lines


@pytest.mark.parametrize(
    ("way", "start", "reason"),
    [
        (MeshError("the gateway of w2 cannot be reached"), 0, "cannot be reached"),
        (ConnectionResetError("reset"), 0, "reset"),
        (Way(answer(status="404 Not Found", length=5) + b"nope\n"), 0, "answered 404"),
        (Way(answer(status="200 OK") + CONTENT), 5, "answered 200"),
        (Way(answer(length=7) + CONTENT), 0, "ends after 7 bytes, and should after 1024"),
        (Way(b"SSH-2.0-OpenSSH\r\n\r\n"), 0, "none of HTTP"),
        (Way(b"HTTP/1.1 206 Partial Content\r\n\r\n"), 0, "none of HTTP"),
        (Way(), 0, "none of HTTP"),
        (Way(b"x" * 1_000_000), 0, "none of HTTP"),
        (Way(answer(), CONTENT[:24]), 0, "1000 B too early"),
        (Way(hangs=True), 0, "silent for"),
        (Way(answer(), CONTENT[:1], hangs=True), 0, "silent for"),
    ],
)
def test_what_makes_it_fail(
    tmp_path: Path, opened: list[Way | Exception], way: Way | Exception, start: int, reason: str
) -> None:
    opened.append(way)
    source = PeerSource(PEER, tmp_path)
    with pytest.raises(PeerFailedError, match=reason):
        receive(source, start)
    assert source.failed
    assert not isinstance(way, Way) or way.closed


def test_one_that_is_too_slow_is_left(tmp_path: Path, opened: list[Way], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(peer_files, "LEAST_RATE", 1 << 60)
    opened.append(Way(answer(), CONTENT[:24], CONTENT[24:]))
    source = PeerSource(PEER, tmp_path)
    with pytest.raises(PeerFailedError, match="it brings no more than"):
        receive(source)
    assert source.failed


def test_what_the_receiver_raises_is_not_the_peers_fault(tmp_path: Path, opened: list[Way]) -> None:
    way = Way(answer() + CONTENT)
    opened.append(way)
    source = PeerSource(PEER, tmp_path)

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        source.receive(KEY, FILE, 0, full)
    assert (source.failed, way.closed) == (False, True)


def test_without_an_identity_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(PeerFailedError, match="no certificate"):
        receive(PeerSource(PEER, tmp_path))
