"""Headers that were read before, in memory and on disk: a model that is asked for again costs no transfer.

What a header says never changes for a pinned file, and what we make of it may: so it is the header that is kept, as it
was read, and a new version of Stoker describes it anew. Only a change of what is kept of a header (READER_VERSION)
makes old ones useless; they lie in a folder that nobody looks into any more.
"""

import hashlib
import json
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.domain.gguf import Header, MetadataArray, MetadataValue, TensorInfo
from stoker.domain.units import MIB
from stoker.gguf_header import READER_VERSION

LARGEST_ENTRY = 8 * MIB
"""Bytes as JSON. A header of a thousand tensors takes some 100 KiB; one that is larger is read anew each time."""


@dataclass(frozen=True, slots=True)
class CachedHeader:
    """A file's header; `size` (bytes) and `etag` say of which content, where the key alone does not."""

    header: Header
    size: int
    etag: str = ""


class HeaderCache:
    """Headers by key. Several threads, and several processes on the same `folder`, may use it at once.

    `folder` None: in memory only. A disk that is full, read-only or broken makes it slower, never wrong: no call
    raises. The limits are bytes as JSON; the longest unused goes first.
    """

    def __init__(
        self, folder: Path | None = None, *, memory_limit: int = 16 * MIB, disk_limit: int = 128 * MIB
    ) -> None:
        self._folder = folder / f"headers-v{READER_VERSION}" if folder is not None else None
        self._memory_limit, self._disk_limit = memory_limit, disk_limit
        self._memory: OrderedDict[str, tuple[CachedHeader, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> CachedHeader | None:
        """What was put under `key`, by this process or another; None where it is not there any more."""
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key][0]
        text = self._read(key)
        entry = _decoded(key, text)
        if entry is not None:
            self._remember(key, entry, len(text))
        return entry

    def put(self, key: str, entry: CachedHeader) -> None:
        """Keeps `entry` under `key`, in place of what was there."""
        text = json.dumps(_encoded(key, entry), separators=(",", ":")).encode()
        if len(text) <= LARGEST_ENTRY:
            self._remember(key, entry, len(text))
            self._write(key, text)

    def _remember(self, key: str, entry: CachedHeader, size: int) -> None:
        with self._lock:
            self._held += size - self._memory.pop(key, (entry, 0))[1]
            self._memory[key] = entry, size
            while self._held > self._memory_limit:
                _, (_, dropped) = self._memory.popitem(last=False)
                self._held -= dropped

    def _path(self, key: str) -> Path | None:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json" if self._folder else None

    def _read(self, key: str) -> bytes:
        if (path := self._path(key)) is None:
            return b""
        try:
            with path.open("rb") as file:
                text = file.read(LARGEST_ENTRY + 1)
            os.utime(path)  # used: it stays longer
        except OSError:
            return b""
        return text

    def _write(self, key: str, text: bytes) -> None:
        if (path := self._path(key)) is None:
            return
        with suppress(OSError):
            for folder in reversed(path.parents):  # `parents=True` would open those above to everybody
                folder.mkdir(exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(suffix=".new", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(text)
                os.replace(name, path)  # noqa: PTH105  whole or not at all, whoever reads meanwhile
            except OSError:
                os.unlink(name)  # noqa: PTH108
                raise
            self._make_room(path.parent)

    def _make_room(self, folder: Path) -> None:
        """Removes what was longest unused, and what a process that died left half-written."""
        found = []
        for entry in os.scandir(folder):
            with suppress(OSError):  # another process removed it first
                found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held <= self._disk_limit:
                break
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            held -= size


def _encoded(key: str, entry: CachedHeader) -> dict[str, Any]:
    header = entry.header
    return {
        "key": key,
        "size": entry.size,
        "etag": entry.etag,
        "version": header.version,
        "data_offset": header.data_offset,
        "metadata": {name: _plain(value) for name, value in header.metadata.items()},
        "tensors": header.tensors,
    }


def _plain(value: MetadataValue) -> Any:
    return {"length": value.length, "items": value.items} if isinstance(value, MetadataArray) else value


def _decoded(key: str, text: bytes) -> CachedHeader | None:
    """What `_encoded` wrote; None for anything else: half a file, another key's, somebody else's."""
    try:
        found = json.loads(text)
        if found["key"] != key:
            return None
        header = Header(
            version=int(found["version"]),
            metadata={str(name): _value(value) for name, value in found["metadata"].items()},
            tensors=tuple(_tensors(found["tensors"])),
            data_offset=int(found["data_offset"]),
        )
        return CachedHeader(header, int(found["size"]), str(found["etag"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _value(value: Any) -> MetadataValue:
    if isinstance(value, dict):
        return MetadataArray(length=int(value["length"]), items=tuple(value["items"]))
    if not isinstance(value, int | float | str):
        raise TypeError(f"{type(value)} is no value of a header")
    return value


def _tensors(rows: Iterable[Any]) -> Iterable[TensorInfo]:
    for name, shape, kind, offset, size in rows:
        yield TensorInfo(
            name=str(name), shape=tuple(map(int, shape)), type=str(kind), offset=int(offset), size=int(size)
        )
