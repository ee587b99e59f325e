"""Room on a disk that several downloads, and several agents, share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.domain.models import ModelFile
from stoker.domain.units import MIB
from worker_agent.disk_room import DiskRoom
from worker_agent.hub_cache import CachedRepo
from worker_agent.pids import birth_of

COMMIT = "0123456789" * 4
A, B = (ModelFile(path=f"{name}.gguf", size=3 * MIB, sha256=name * 64) for name in "ab")


@pytest.fixture
def cached(tmp_path: Path) -> CachedRepo:
    made = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    made.blobs.mkdir(parents=True)
    return made


def room_of(tmp_path: Path, free: int) -> DiskRoom:
    return DiskRoom(tmp_path, lambda _: free)


def promised_by(tmp_path: Path, pid: int, birth: str, *files: ModelFile) -> Path:
    """A promise to an agent of that process."""
    folder = tmp_path / ".locks/stoker"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{pid}.99.json"
    content = [file.model_dump() for file in files]
    path.write_text(json.dumps({"pid": pid, "birth": birth, "repo": "acme/tiny", "revision": COMMIT, "files": content}))
    return path


@pytest.mark.parametrize(
    ("free", "here", "lacking"),
    [(3 * MIB, 0, 0), (3 * MIB - 1, 0, 1), (0, 0, 3 * MIB), (MIB, 2 * MIB, 0), (MIB, MIB, MIB), (0, 3 * MIB, 0)],
)
def test_what_is_missing_must_be_free(tmp_path: Path, cached: CachedRepo, free: int, here: int, lacking: int) -> None:
    cached.partial(A.sha256).write_bytes(bytes(here))
    room, promise = room_of(tmp_path, free).promise(cached, [A])
    assert (room.missing, room.promised, room.free, room.lacking) == (3 * MIB - here, 0, free, lacking)
    assert (promise is None) is (lacking > 0)


def test_what_was_promised_is_not_promised_again_until_it_is_there_or_given_back(
    tmp_path: Path, cached: CachedRepo
) -> None:
    disk = room_of(tmp_path, 5 * MIB)
    _, first = disk.promise(cached, [A])
    assert first is not None
    room, second = disk.promise(cached, [B])
    assert (room.promised, room.lacking, second) == (3 * MIB, MIB, None)
    cached.partial(A.sha256).write_bytes(bytes(MIB))
    room, second = disk.promise(cached, [B])
    assert (room.promised, room.lacking) == (2 * MIB, 0)
    disk.release(first)
    room, _ = disk.promise(cached, [B])
    assert room.promised == 0, "a file that two wait for comes once"


def test_a_file_that_another_brings_needs_no_room_of_its_own_beside_it(tmp_path: Path, cached: CachedRepo) -> None:
    disk = room_of(tmp_path, 3 * MIB)
    assert disk.promise(cached, [A])[1] is not None
    room, promise = disk.promise(cached, [A])
    assert (room.missing, room.promised, promise is None) == (3 * MIB, 0, False)


def test_another_agents_downloads_count_while_it_lives(tmp_path: Path, cached: CachedRepo) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path = promised_by(tmp_path, other.pid, birth_of(other.pid), A)
        room, promise = room_of(tmp_path, 5 * MIB).promise(cached, [B])
        assert (room.promised, promise) == (3 * MIB, None)
        other.kill()
    room, promise = room_of(tmp_path, 5 * MIB).promise(cached, [B])
    assert (room.promised, promise is None) == (0, False)
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": 1}', "\xff"])
def test_a_promise_that_cannot_be_read_binds_nobody(tmp_path: Path, cached: CachedRepo, content: str) -> None:
    path = promised_by(tmp_path, os.getpid(), "x", A)
    path.write_text(content, encoding="latin-1")
    room, promise = room_of(tmp_path, 3 * MIB).promise(cached, [B])
    assert (room.promised, promise is None, path.exists()) == (0, False, False)


def test_a_promise_with_a_name_that_leads_elsewhere_binds_nobody(tmp_path: Path, cached: CachedRepo) -> None:
    promised_by(tmp_path, os.getpid(), birth_of(os.getpid()), A.model_copy(update={"path": "../../x"}))
    room, _ = room_of(tmp_path, 3 * MIB).promise(cached, [B])
    assert room.promised == 0
