"""Room on the disk of the cache, promised once: also to downloads of other agents that share it on this host.

What a download will still need is told by a file, as long as its agent lives:

    .locks/stoker/PID.N.json    whose agent, and the files that come
"""

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # public, but untyped
from pydantic import ValidationError

from stoker.domain.base import Value
from stoker.domain.models import ModelFile
from worker_agent.hub_cache import CachedRepo
from worker_agent.pids import birth_of, is_alive

_LOCK_SECONDS = 10.0
_NUMBERS = itertools.count()


class _Promise(Value):
    """Files that are coming. `pid` and `birth` tell the agent for which."""

    pid: int
    birth: str
    repo: str
    revision: str
    files: tuple[ModelFile, ...]


class Room:
    """What there is for one download. `lacking` bytes are missing; `promised` to others that come at the same time."""

    def __init__(self, *, missing: int, promised: int, free: int) -> None:
        self.missing, self.promised, self.free = missing, promised, free

    @property
    def lacking(self) -> int:
        """Bytes that would have to be freed; 0: there is room."""
        return max(0, self.missing + self.promised - self.free)


class DiskRoom:
    """The room in `cache_dir`; `free_space` measures it. Every call blocks, and may raise OSError."""

    def __init__(self, cache_dir: Path, free_space: Callable[[Path], int]) -> None:
        self._cache_dir, self._free_space = cache_dir, free_space
        self._folder = cache_dir / ".locks" / "stoker"

    def promise(self, cached: CachedRepo, files: Sequence[ModelFile]) -> tuple[Room, Path | None]:
        """Promises room for what is missing of `files`. The path is for `release`; None: there is not enough."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(self._folder / "room.lock", timeout=_LOCK_SECONDS):
            room = self._look(cached, files)
            if room.lacking:
                return room, None
            pid = os.getpid()
            promise = _Promise(
                pid=pid, birth=birth_of(pid), repo=cached.repo, revision=cached.revision, files=tuple(files)
            )
            path = self._folder / f"{pid}.{next(_NUMBERS)}.json"
            path.write_text(promise.model_dump_json(), encoding="utf-8")
            return room, path

    def release(self, path: Path) -> None:
        """The download has ended."""
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def _look(self, cached: CachedRepo, files: Sequence[ModelFile]) -> Room:
        missing = sum(file.size - cached.bytes_on_disk(file) for file in files)
        here = {_content(cached.repo, file) for file in files}
        promised: dict[tuple[str, str], int] = {}
        for path in self._folder.glob("*.json"):
            promise = _read(path)
            if promise is None:
                path.unlink(missing_ok=True)
                continue
            with suppress(ValueError):
                theirs = CachedRepo(self._cache_dir, promise.repo, promise.revision)
                for file in promise.files:
                    promised[_content(promise.repo, file)] = file.size - theirs.bytes_on_disk(file)
        others = sum(size for content, size in promised.items() if content not in here)
        return Room(missing=missing, promised=others, free=self._free_space(self._cache_dir))


def _content(repo: str, file: ModelFile) -> tuple[str, str]:
    """What comes once, however many want it."""
    return repo, file.sha256 or file.path


def _read(path: Path) -> _Promise | None:
    """The promise; None where nobody keeps it any more."""
    try:
        promise = _Promise.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return promise if is_alive(promise.pid, promise.birth) else None
