"""The engines' logs: one file a process, turned over past a size, read back and followed.

<instance>.<incarnation>.<role>.log      what the process writes now
<instance>.<incarnation>.<role>.log.1    older, .2 older still
"""

import asyncio
import os
import shutil
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Collection
from itertools import islice
from pathlib import Path

from activities.ports import ProcessKey
from stoker.domain.base import InstanceId
from stoker.domain.units import MIB
from worker_agent.records import file_stem, parse_stem

ROTATE_BYTES = 10 * MIB
KEEP_ROTATED = 2  # older parts beside the current one
KEEP_INCARNATIONS = 5
KEEP_SECONDS = 14 * 86_400  # of a log that nothing writes to, whoever's it was
MAX_TAIL_LINES = 100_000
_FOLLOW_SECONDS = 0.2  # between two looks at a file's end
_LINE_LIMIT = 64 * 1024  # bytes held back while waiting for a line's end


class EngineLogs:
    """The logs of one host, in one folder of their own."""

    def __init__(self, folder: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder = folder
        self._rotate_bytes = rotate_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, key: ProcessKey) -> Path:
        """Where the process of `key` writes. Raises ValueError for an unsafe key."""
        return self.folder / f"{file_stem(key)}.log"

    def keys(self) -> list[ProcessKey]:
        """The processes that have a log here, newest incarnation first."""
        found = (parse_stem(path.name.removesuffix(".log")) for path in self.folder.glob("*.log"))
        return sorted((key for key in found if key is not None), key=lambda key: key.incarnation, reverse=True)

    def find(self, instance_id: InstanceId, incarnation: int | None, role: str) -> Path:
        """The log of an instance's incarnation (None: the newest). Raises LookupError naming what there is."""
        known = [key for key in self.keys() if key.instance_id == instance_id and key.role == role]
        wanted = [key for key in known if incarnation is None or key.incarnation == incarnation]
        if not wanted:
            there = ", ".join(str(key.incarnation) for key in known) or "none"
            asked = "" if incarnation is None else f" of incarnation {incarnation}"
            raise LookupError(f"no log{asked} of instance {instance_id!r} on this host; incarnations with one: {there}")
        return self.path(wanted[0])

    def read(self, path: Path, lines: int) -> list[str]:
        """The last `lines` lines, older parts included. Blocks for as long as tens of MiB take to read."""
        collected: list[str] = []
        for part in (path, *_rotated(path)):
            missing = min(lines, MAX_TAIL_LINES) - len(collected)
            if missing <= 0 or not part.exists():
                break
            collected = tail(part, missing) + collected
        return collected

    async def follow(self, path: Path, lines: int, ended: Callable[[], bool]) -> AsyncGenerator[str, None]:
        """The last `lines` lines, then each new one, until `ended` and everything written was yielded."""
        content = await asyncio.to_thread(_read_from, path, 0)
        *complete, rest = content.split(b"\n")
        position = len(content)
        if len(complete) < lines:
            older = (part for part in _rotated(path)[:1] if part.exists())
            for line in [line for part in older for line in tail(part, lines - len(complete))]:
                yield line
        for raw in complete[max(0, len(complete) - lines) :]:
            yield _text(raw)
        while True:
            over = ended()  # asked before reading, so that nothing written before the end is missed
            if _size(path) < position:
                position = 0  # turned over
            block = await asyncio.to_thread(_read_from, path, position)
            position += len(block)
            *complete, rest = (rest + block).split(b"\n")
            for raw in complete:
                yield _text(raw)
            if rest and (len(rest) > _LINE_LIMIT or (over and not block)):
                yield _text(rest)
                rest = b""
            if not block:
                if over:
                    return
                await asyncio.sleep(_FOLLOW_SECONDS)

    def rotate(self, path: Path) -> bool:
        """Turns the log over if it has grown past the limit; see `rotate`."""
        return rotate(path, self._rotate_bytes)

    def prune(self, keep: Collection[ProcessKey]) -> None:
        """Removes the logs of all but each instance's newest incarnations, and those nobody wrote to for two weeks.

        Those of the processes in `keep` stay.
        """
        newest: dict[InstanceId, set[int]] = defaultdict(set)
        for key in self.keys():  # newest first
            path, seen = self.path(key), newest[key.instance_id]
            if len(seen) < KEEP_INCARNATIONS and time.time() - _changed_at(path) < KEEP_SECONDS:
                seen.add(key.incarnation)
            if key.incarnation not in seen and key not in keep:
                for part in (path, *_rotated(path)):
                    part.unlink(missing_ok=True)


def rotate(path: Path, limit: int) -> bool:
    """Turns a log over if it has grown past `limit` bytes; whether it did. Blocks while copying.

    The process keeps its file open, so the content is copied and the file then emptied: what is written between
    the two is lost. The process appends (O_APPEND), so that it goes on at the new end.
    """
    if _size(path) <= limit:
        return False
    parts = [path, *_rotated(path)]
    for older, newer in zip(reversed(parts[2:]), reversed(parts[1:-1]), strict=True):
        if newer.exists():
            newer.replace(older)
    shutil.copyfile(path, parts[1], follow_symlinks=False)
    parts[1].chmod(0o600)
    os.truncate(path, 0)
    return True


def oldest_part(path: Path) -> Path:
    """The part of a log that begins earliest: the log itself until it was turned over."""
    return next((part for part in reversed(_rotated(path)) if part.exists()), path)


def head(path: Path, lines: int) -> list[str]:
    """The first `lines` lines of a file. Raises OSError."""
    with path.open("rb") as file:
        return [_text(line) for line in islice(file, lines)]


def tail(path: Path, lines: int, within: int | None = None) -> list[str]:
    """The last `lines` lines of a file, looked for in its last `within` bytes. Raises OSError."""
    with path.open("rb") as file:
        if within is not None:
            file.seek(max(0, file.seek(0, os.SEEK_END) - within))
        return [_text(line) for line in deque(file, maxlen=lines)]


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")


def _rotated(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.{number}") for number in range(1, KEEP_ROTATED + 1)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_from(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(2 * ROTATE_BYTES)
    except FileNotFoundError:
        return b""
