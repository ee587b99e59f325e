"""Asks a ggml-rpc-server which protocol it speaks, by starting it on loopback and saying HELLO.

The protocol (ggml-rpc.cpp of llama.cpp): a request is a command (1 byte), the size of what follows (8 bytes, little
endian) and that; an answer is a size and that. The first command must be HELLO, with 24 bytes of what the transport
can do; the answer begins with the version's three numbers, a byte each.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from worker_agent.pids import listening_port, signal_group

_HELLO, _CAPABILITIES, _ANSWER = 14, 24, 28
_WITHIN_SECONDS = 60.0  # starting a GPU's driver may take many
_END_SECONDS = 5.0
_POLL_SECONDS = 0.02
_TRIES = 3  # another process may take the free port first


class RpcProbeError(Exception):
    """A program that did not answer as a ggml-rpc-server; the message says how."""


def ask_rpc_protocol(program: Path, environment: Mapping[str, str], within_seconds: float = _WITHIN_SECONDS) -> str:
    """The protocol's version, like `7.0.0`. The program serves its CPU only meanwhile, and has ended on return.

    Raises RpcProbeError.
    """
    deadline = time.monotonic() + within_seconds
    for _ in range(_TRIES):
        port = _free_port()
        try:
            process = subprocess.Popen(
                [program, "--host", "127.0.0.1", "--port", str(port), "--device", "CPU"],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise RpcProbeError(f"{program}: cannot be run: {error.strerror}") from error
        try:
            if _listens(process, port, deadline):
                return _say_hello(program, port, deadline)
        finally:
            said = _end(process)
        if "create server socket" not in said:
            raise RpcProbeError(f"{program}: ended with {process.returncode} instead of serving: {said[-500:]}")
    raise RpcProbeError(f"{program}: found no free port on loopback in {_TRIES} tries")


def _listens(process: subprocess.Popen[bytes], port: int, deadline: float) -> bool:
    """Waits until the process itself, and not another, listens on the port; False when it ended before."""
    while process.poll() is None:
        if listening_port(process.pid) == port:
            return True
        if time.monotonic() > deadline:
            raise RpcProbeError(f"process {process.pid} did not begin to listen on port {port} in time")
        time.sleep(_POLL_SECONDS)
    return False


def _say_hello(program: Path, port: int, deadline: float) -> str:
    request = bytes([_HELLO]) + _CAPABILITIES.to_bytes(8, "little") + bytes(_CAPABILITIES)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=max(0.1, deadline - time.monotonic())) as connection:
            connection.sendall(request)
            size = int.from_bytes(_receive(connection, 8, deadline), "little")
            if size != _ANSWER:
                raise RpcProbeError(f"{program}: answered HELLO with {size} bytes instead of {_ANSWER}")
            major, minor, patch = _receive(connection, _ANSWER, deadline)[:3]
    except OSError as error:
        raise RpcProbeError(f"{program}: did not answer HELLO: {error or type(error).__name__}") from error
    return f"{major}.{minor}.{patch}"


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    received = b""
    while len(received) < count:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
        part = connection.recv(count - len(received))
        if not part:
            raise ConnectionError("it closed the connection")
        received += part
    return received


def _end(process: subprocess.Popen[bytes]) -> str:
    """Ends the process, and all that it started; returns what it wrote to stderr."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_group(process.pid, number)
        try:
            return process.communicate(timeout=_END_SECONDS)[1].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            continue
    raise RpcProbeError(f"process {process.pid} outlives SIGKILL: the kernel holds it")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
