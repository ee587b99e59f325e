"""Processes that are kept running, as systemd would: what dies is started again some seconds later."""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 20.0

_libc = ctypes.CDLL(None)


class Kept:
    """One command that is kept running, but while it is held down."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, *, restart_after: float
    ) -> None:
        """`restart_after`: seconds. Nothing runs before `start`."""
        self.name, self._command, self._environment, self._log = name, list(command), dict(environment), log
        self._restart_after = restart_after
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self.starts = 0

    @property
    def pid(self) -> int:
        """Of the one that runs now; 0: none does."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        """Starts it, and keeps it running from now on."""
        self._wanted.set()
        self._launch()

    def look(self) -> None:
        """To be called again and again: starts it when it has been dead for long enough."""
        with self._lock:
            dead = self._process is not None and self._process.poll() is not None
        if self._wanted.is_set() and dead:
            time.sleep(self._restart_after)
            if self._wanted.is_set():
                self._launch()

    def kill(self, *, hold: bool = False) -> None:
        """Kills it. `hold`: it stays down until `start`."""
        if hold:
            self._wanted.clear()
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it for good: SIGTERM, then SIGKILL."""
        self._wanted.clear()
        with self._lock:
            process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            process.wait()

    def _signal(self, number: int) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

    def _launch(self) -> None:
        with self._lock, self._log.open("ab") as out:
            if self._process is not None and self._process.poll() is None:
                return
            self._process = subprocess.Popen(
                self._command,
                env={**_clean(os.environ), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_us,
            )
            self.starts += 1


class Keeper:
    """Looks after many of them, in a thread each: one that waits to be started again holds nobody up."""

    def __init__(self) -> None:
        self._kept: list[Kept] = []
        self._over = threading.Event()

    def keep(self, kept: Kept) -> Kept:
        """Starts it, and keeps it running."""
        self._kept.append(kept)
        kept.start()
        threading.Thread(target=self._watch, args=(kept,), daemon=True).start()
        return kept

    def _watch(self, kept: Kept) -> None:
        while not self._over.wait(0.05):
            kept.look()

    def close(self) -> None:
        """Ends all of them, the last one first."""
        for kept in reversed(self._kept):
            kept.stop()
        self._over.set()  # not before: a process dies with the thread that has started it


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The developer's own settings must not reach the system."""
    return {name: value for name, value in environment.items() if not name.startswith(("STOKER_", "TEMPORAL_", "HF_"))}


def _die_with_us() -> None:
    pr_set_pdeathsig = 1
    _libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
