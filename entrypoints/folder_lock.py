"""One process a folder: whoever comes second is told who is there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUseError(Exception):
    """Another process holds the folder; the message names it and the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder (made if need be) until the block ends or the process dies. Raises FolderInUseError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise FolderInUseError(f"process {holder} holds {folder}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
