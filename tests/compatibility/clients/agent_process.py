"""An agent's own program, run for one turn, with no way out but to Stoker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TURN_SECONDS = 600.0

# A proxy that nobody listens at: whatever else it wants to reach, it cannot.
NO_WAY_OUT = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "DO_NOT_TRACK": "1",
}


class Turn:
    """What an agent said in one turn: its events, a line of JSON each, and its last words."""

    def __init__(
        self, command: list[str], environment: dict[str, str], until: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Runs until the agent ends, or `until` holds for an event, or the time is up. Then it is ended."""
        folder = Path(tempfile.mkdtemp(prefix="agent-"))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of the agent's end
        clean = {name: os.environ[name] for name in ("PATH", "LANG", "TERM", "STOKER_API_KEY") if name in os.environ}
        self.events: list[dict[str, Any]] = []
        with (folder / "errors").open("w+") as errors:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean | NO_WAY_OUT | {"HOME": str(folder)} | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            ended = _ended_after(process, TURN_SECONDS)
            try:
                for event in _events(process):
                    self.events.append(event)
                    if until(event):
                        break
            finally:
                ended()
            errors.seek(0)
            self.errors = errors.read()[-1500:]
        shutil.rmtree(folder, ignore_errors=True)

    def told(self) -> str:
        """For a check that failed."""
        return f"{[str(event)[:200] for event in self.events[-6:]]} {self.errors}"


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _ended_after(process: subprocess.Popen[str], seconds: float) -> Callable[[], None]:
    """Ends the process and all that it started: after some seconds, or when what is returned is called."""
    import threading

    def end() -> None:
        timer.cancel()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()

    timer = threading.Timer(seconds, end)
    timer.start()
    return end
