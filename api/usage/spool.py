"""Batches of records that wait on disk for the database, oldest first.

A file of frames, each a batch: its number, how many records, the length of what follows, a checksum of it all, and
that: compressed JSON. What a crash left half-written at the end is seen by its length or checksum, and is not there.
"""

import json
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from stoker.domain.usage import UsageRecord
from stoker.storage.usage_writing import Batch

_HEADER = struct.Struct("<QIII")  # batch number, records, length in bytes, CRC-32 of these and the content
_LEVEL = 1  # of compression: the quickest takes 9 bytes of 10 already


class SpoolFullError(Exception):
    """The batches would make the file larger than it may be."""


class Spool:
    """One recorder's. For one thread at a time."""

    def __init__(self, path: Path, limit: int) -> None:
        """Opens the file, or makes it when something is kept; it may grow to `limit` bytes. Raises OSError."""
        self._path, self._limit = path, limit
        self._file: int | None = None
        self._size = self._at = 0  # bytes: of all whole frames; where the first one that is still wanted begins
        self.records = 0  # that wait
        if path.exists():
            self._open()
            self._size = self._measure()

    def append(self, batch: Batch) -> None:
        """Keeps one more; `sync` takes it to the disk. Raises SpoolFullError, OSError: then it is not kept."""
        content = zlib.compress(json.dumps(batch.records, separators=(",", ":")).encode(), _LEVEL)
        head = (batch.number, len(batch.records), len(content))
        frame = _HEADER.pack(*head, _checksum(*head, content)) + content
        if self._size + len(frame) > self._limit:
            raise SpoolFullError(f"{self._path}: {self._limit} bytes are the most that may wait there")
        file = self._open()
        written = 0
        while written < len(frame):  # a disk that gets full takes a part first
            written += os.pwrite(file, frame[written:], self._size + written)
        self._size += len(frame)
        self.records += len(batch.records)

    def sync(self) -> None:
        """What was kept is on disk when this returns. Raises OSError."""
        if self._file is not None:
            os.fdatasync(self._file)

    def first(self, most: int) -> list[Batch]:
        """The first batches that wait: one, and more while they have no more than `most` records together."""
        found: list[Batch] = []
        records, at = 0, self._at
        while (header := self._header(at)) is not None:
            number, count, length, _ = header
            if found and records + count > most:
                break
            content = os.pread(self._open(), length, at + _HEADER.size)
            rows = json.loads(zlib.decompress(content))
            found.append(Batch(number, [UsageRecord._make(row) for row in rows]))
            records += count
            at += _HEADER.size + length
        return found

    def drop_through(self, number: int) -> None:
        """Batches up to this number are wanted no more. The file shrinks when none is."""
        while (header := self._header(self._at)) is not None and header[0] <= number:
            self._at += _HEADER.size + header[2]
            self.records -= header[1]
        if self._file is not None and self._at and self._at == self._size:
            os.ftruncate(self._file, 0)
            self._at = self._size = 0

    def close(self) -> None:
        """Closes the file; what waits stays in it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Closes and removes the file."""
        self.close()
        with suppress(OSError):
            self._path.unlink()

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._file

    def _header(self, at: int) -> tuple[int, int, int, int] | None:
        if at + _HEADER.size > self._size:
            return None
        number, count, length, checksum = _HEADER.unpack(os.pread(self._open(), _HEADER.size, at))
        return number, count, length, checksum

    def _measure(self) -> int:
        """The bytes of all whole frames of a file that another process left; counts their records."""
        file = self._open()
        whole = os.fstat(file).st_size
        at = 0
        while at + _HEADER.size <= whole:
            number, count, length, checksum = _HEADER.unpack(os.pread(file, _HEADER.size, at))
            content = os.pread(file, length, at + _HEADER.size) if at + _HEADER.size + length <= whole else b""
            if len(content) != length or checksum != _checksum(number, count, length, content):
                break
            at += _HEADER.size + length
            self.records += count
        return at


def _checksum(number: int, count: int, length: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(_HEADER.pack(number, count, length, 0)))
