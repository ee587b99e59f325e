"""How many records one process has made: in a mapped file, so that even one that was killed has said so.

Its recorder holds a lock on the file for as long as it lives. One that nobody holds was left by a process that died.
"""

import errno
import fcntl
import mmap
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

_NUMBERS = 3
_SIZE = _NUMBERS * 8
_SUFFIX = ".tally"

MADE = 0
"""Records that were to be kept."""
REFUSED, DROPPED = 1, 2
"""Those of them that are known not to be kept, and were counted: by who makes them, and by who keeps them."""


class Tally:
    """The counters of one recorder, and the lock that says that it lives."""

    def __init__(self, path: Path, file: int) -> None:
        """Of a file that is locked."""
        self._path, self._file = path, file
        self._memory = mmap.mmap(file, _SIZE)
        self.numbers = memoryview(self._memory).cast("Q")  # MADE, REFUSED, DROPPED

    @classmethod
    def new(cls, folder: Path) -> Self:
        """Of a new recorder. The folder is made if need be. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        scratch = path.with_suffix(".new")
        file = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Written, and not only made so long: a mapped page that finds no room on the disk ends its process.
            if os.pwrite(file, bytes(_SIZE), 0) < _SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))
            fcntl.flock(file, fcntl.LOCK_EX)  # before it has its name: nobody may find it unlocked
            scratch.rename(path)
        except BaseException:
            os.close(file)
            scratch.unlink(missing_ok=True)
            raise
        return cls(path, file)

    @classmethod
    def left(cls, folder: Path) -> Iterator[Self]:
        """Those whose processes have died, one by one; each is ours until it is closed. Raises OSError."""
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another process was quicker
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = os.fstat(file).st_nlink > 0 and os.fstat(file).st_size == _SIZE
            except BlockingIOError:
                ours = False
            if ours:
                yield cls(path, file)
            else:
                os.close(file)

    @property
    def to_be_written(self) -> int:
        """Records that are in the database, or will be, or are lost with their process."""
        return self.numbers[MADE] - self.numbers[REFUSED] - self.numbers[DROPPED]

    @property
    def recorder(self) -> str:
        """The recorder's id."""
        return self._path.stem

    @property
    def spool(self) -> Path:
        """Where this recorder's batches wait."""
        return self._path.with_suffix(".spool")

    def remove(self) -> None:
        """Nothing of it is wanted any more."""
        with suppress(OSError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Gives the lock back; the numbers stay in the file."""
        self.numbers.release()
        self._memory.close()
        os.close(self._file)
