"""Runs llama.cpp's programs for as long as a measurement needs them."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 180  # seconds until a program that neither ends nor says what is waited for is killed
MAX_DEVICES = 15  # of one llama-server


class RefereeError(Exception):
    """llama.cpp did not say what it needs; the message ends with its last words."""


def log_until(
    command: list[str], done: Callable[[str], bool], environment: Mapping[str, str] | None = None
) -> list[str]:
    """The lines that `command` prints up to the one for which `done` holds; the process is then killed.

    Raises RefereeError when it ends before, or the deadline passes.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={"GGML_NO_BACKTRACE": "1", "LC_ALL": "C", **(environment or {})},
    )
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if done(line):
                return lines
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    raise RefereeError(f"{' '.join(command)} ended with {process.returncode}: {''.join(lines[-12:])}")


@contextmanager
def rpc_server(binaries: Path, devices: int) -> Iterator[str]:
    """A ggml-rpc-server with `devices` CPU devices; its endpoint. It serves one llama-server after another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            str(binaries / "ggml-rpc-server"),
            *("-H", "127.0.0.1", "-p", str(port), "-t", "1", "-d", ",".join(["CPU"] * devices)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        restore_signals=False,  # SIGPIPE stays ignored: otherwise the first client to be killed takes the server along
    )
    try:
        _wait_until_listening(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_until_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RefereeError(f"ggml-rpc-server does not listen on port {port}: {process.returncode}") from None
            time.sleep(0.01)
