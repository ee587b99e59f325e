"""Bytes that can be read at any offset, wherever they lie."""

import errno
import os
import stat
from pathlib import Path
from typing import Protocol, Self


class ByteSource(Protocol):
    """A file here, or a remote one by range requests."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`; fewer only where the source ends. Raises what its medium raises."""
        ...


class FileSource:
    """A regular file on this host; close it, or use it in a `with`. Opening and reading raise OSError."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not block
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        self.size = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`; fewer only where the file ends."""
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
