"""The part of a file that has been received so far, and its running checksum."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from stoker.domain.units import MIB


def read_sha256(path: Path, on_read: Callable[[], None]) -> str:
    """The checksum of the file's content, in hexadecimal; `on_read` is called again and again. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(MIB):
            digest.update(block)
            on_read()
    return digest.hexdigest()


class PartialFile:
    """What is at `path` already is kept and gone on from; use it in a `with`. Every call may raise OSError.

    `on_read` is called with the file's size, again and again, while old content is read for its checksum: with a large
    model that takes minutes.
    """

    def __init__(self, path: Path, on_read: Callable[[int], None]) -> None:
        self._digest = hashlib.sha256()
        # Without a buffer: what was received is in the file at once, and survives this process's death.
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        while block := self._file.read(MIB):
            self._digest.update(block)
            on_read(self.size)

    @property
    def sha256(self) -> str:
        """The checksum of all that is there, in hexadecimal."""
        return self._digest.hexdigest()

    def append(self, block: bytes) -> None:
        """Adds `block` at the end."""
        left = memoryview(block)
        while left:
            left = left[self._file.write(left) :]
        self._digest.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Drops everything."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0

    def sync(self) -> None:
        """Returns when the content would survive a power cut."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
