"""Small files that only their user may read, and that nobody ever reads by halves."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_private(path: Path, text: str, *, synced: bool = False) -> None:
    """Replaces the file `path` by `text`, as a whole, with mode 0600; folders are made (0700) where there is none.

    Of several that write at once, one wins. `synced`: it outlasts a power cut as soon as this returns. Raises OSError:
    then what was there before is still there, and nothing else is.
    """
    with _draft(path, text, synced=synced) as draft:
        draft.replace(path)


def make_private(path: Path, text: str) -> None:
    """As `write_private`, but a file that is there already stays as it is. Raises OSError."""
    with _draft(path, text) as draft, suppress(FileExistsError):
        os.link(draft, path)


@contextmanager
def _draft(path: Path, text: str, *, synced: bool = False) -> Iterator[Path]:
    """A file beside `path`, under a name of its own, which is gone in the end."""
    for folder in reversed(path.parents):  # `parents=True` would open those above to everybody
        folder.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
