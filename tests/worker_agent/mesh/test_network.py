"""The mesh between hosts of their own: a cut that nobody is told of, and strangers from another machine."""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO

import pytest

from tests.faults.network import Network, allowed
from tests.worker_agent.mesh.cluster import DEADLINE, Mesh, wait_until

SERVICE = "rpc/chat-x.1"
pytestmark = pytest.mark.skipif(bool(allowed()), reason=f"no network of its own: {allowed()}")

_SERVER = """
import socket
listener = socket.create_server(("127.0.0.1", 4000))
while True:
    one, _ = listener.accept()
    one.sendall(b"weights")
    print("connected", flush=True)
    try:
        one.recv(1)
    except OSError:
        pass
    print("ended", flush=True)
"""
_STRANGER = """
import socket, sys
host, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
for port in ports:
    heard = b""
    try:
        with socket.create_connection((host, port), timeout=3) as one:
            one.sendall(b"open rpc/chat-x.1\\n")
            one.settimeout(10)
            while data := one.recv(1000):
                heard += data
    except OSError as error:
        print(port, type(error).__name__, heard)
    else:
        print(port, "closed", heard)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network(["w1", "w2", "stranger"])
    yield network
    network.close()


@pytest.fixture
def started() -> Iterator[Callable[..., IO[str]]]:
    """Starts a Python script on a host; what it prints."""
    with ExitStack() as stack:

        def start(inside: Sequence[str], script: str, *arguments: str) -> IO[str]:
            command = [*inside, "python3", "-c", script, *arguments]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            return process.stdout

        yield start


def test_a_cut_link_is_noticed_on_both_sides_and_a_stranger_gets_no_byte(
    network: Network, mesh: Mesh, started: Callable[..., IO[str]]
) -> None:
    server = started(network.inside("w2"), _SERVER)
    gateway = mesh.gateway("w2", host="0.0.0.0", inside=network.inside("w2"))  # noqa: S104
    gateway.host = network.address_of("w2")
    gateway.grants.grant(SERVICE, 4000, ["worker/w1"])
    link = mesh.link("w1", SERVICE, {"w2": gateway}, inside=network.inside("w1"))
    (port,) = link.ports
    main = started(network.inside("w1"), _CLIENT, str(port))
    assert main.readline() == "b'weights'\n"
    assert server.readline() == "connected\n"

    asked = [
        *network.inside("stranger"),
        "python3",
        "-c",
        _STRANGER,
        gateway.host,
        "4000",
        str(port),
        str(gateway.port),
    ]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout.splitlines()
    assert told[:2] == ["4000 ConnectionRefusedError b''", f"{port} ConnectionRefusedError b''"]
    assert re.fullmatch(rf"{gateway.port} (closed|ConnectionResetError) b'.{{0,28}}'", told[2]), "TLS's alert at most"

    network.cut("w1", "w2")
    assert link.ended() == 1
    assert link.log.splitlines()[-1].startswith(f"the link to w2 ({gateway.host}:{gateway.port}) was lost: ")
    assert main.readline() == "over\n", "the main server hears of it"

    def is_lost() -> bool:
        held = gateway.grants.held("chat-x", 1)
        return held is not None and not held.held

    wait_until(is_lost, "the peer's side to notice")
    assert server.readline() == "ended\n", "the RPC server is freed"


_CLIENT = """
import socket, sys
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(one.recv(100), flush=True)
try:
    one.recv(1)
except OSError:
    pass
print("over", flush=True)
"""
