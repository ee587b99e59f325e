"""The question for the RPC protocol, to scripted servers; the real one answers in test_native_engine."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.worker_agent.fake_build import fake_rpc_server, program
from worker_agent.rpc_probe import RpcProbeError, ask_rpc_protocol

SERVER = """#!{python} -S
import os, pathlib, signal, socket, sys, time
here = pathlib.Path(__file__)
here.with_suffix(".pid").write_text(str(os.getpid()))
{before}
with socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))) as server:
    client, _ = server.accept()
    {after}
"""


def server(folder: Path, *, before: str = "", after: str = "") -> Path:
    """A program that does something else than answer."""
    return program(folder / "ggml-rpc-server", SERVER.format(python=sys.executable, before=before, after=after))


def ended(path: Path) -> bool:
    """Whether the program has ended, and was waited for."""
    return not psutil.pid_exists(int(path.with_suffix(".pid").read_text()))


@pytest.mark.parametrize("protocol", ["7.0.0", "12.3.255"])
def test_the_version_is_in_the_answer_to_hello(tmp_path: Path, protocol: str) -> None:
    assert ask_rpc_protocol(fake_rpc_server(tmp_path / "rpc", protocol), os.environ) == protocol


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("sys.exit('no devices')", "", "ended with 1 instead of serving: no devices"),
        ("", "pass", "did not answer HELLO"),
        ("", "client.sendall(b'HTTP/1.1 400 Bad Request'); time.sleep(600)", "answered HELLO with [0-9]+ bytes"),
        ("", "client.sendall((28).to_bytes(8, 'little') + b'7'); client.close()", "did not answer HELLO"),
        ("sys.exit('Failed to create server socket')", "", "found no free port on loopback in 3 tries"),
    ],
)
def test_what_is_no_rpc_server(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = server(tmp_path, before=before, after=after)
    with pytest.raises(RpcProbeError, match=message):
        ask_rpc_protocol(path, os.environ)
    assert ended(path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("time.sleep(600)", "", "did not begin to listen"),
        ("", "time.sleep(600)", "did not answer HELLO: timed out"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "time.sleep(600)", "did not answer HELLO: timed out"),
    ],
)
def test_a_program_that_hangs_is_ended_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, message: str
) -> None:
    monkeypatch.setattr("worker_agent.rpc_probe._END_SECONDS", 0.5)
    path = server(tmp_path, before=before, after=after)
    with pytest.raises(RpcProbeError, match=message):
        ask_rpc_protocol(path, os.environ, within_seconds=2.0)
    assert ended(path)


def test_what_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(RpcProbeError, match="cannot be run: No such file"):
        ask_rpc_protocol(tmp_path / "gone", os.environ)
