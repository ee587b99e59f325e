"""The network of namespaces: links that are cut in silence, healed, and reset, as the trials need them."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.faults import network
from tests.faults.network import Network

pytestmark = pytest.mark.skipif(bool(network.allowed()), reason="network namespaces are not allowed here")

ECHO = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
connection, _ = listener.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
ASK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), 5)
connection.settimeout(1)
print("connected", flush=True)
for line in sys.stdin:
    try:
        connection.sendall(line.encode())
        print("heard", connection.recv(100).decode().strip(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture
def hosts() -> Iterator[Network]:
    made = Network(["a", "b"])
    yield made
    made.close()


class Conversation:
    """A client on `a` that asks an echo on `b`."""

    def __init__(self, hosts: Network) -> None:
        self._echo = self._run(hosts, "b", ECHO)
        assert self._read(self._echo) == "listening"
        self._client = self._run(hosts, "a", ASK, hosts.address_of("b"))
        assert self._read(self._client) == "connected"

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._client, self._echo):
            process.kill()
            process.communicate()

    def ask(self, word: str) -> str:
        assert self._client.stdin is not None
        self._client.stdin.write(f"{word}\n")
        self._client.stdin.flush()
        return self._read(self._client)

    @staticmethod
    def _run(hosts: Network, name: str, program: str, *words: str) -> "subprocess.Popen[str]":
        command = [*hosts.inside(name), sys.executable, "-c", program, *words]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def _read(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        watchdog = threading.Timer(20, process.kill)  # the read has a deadline
        watchdog.start()
        line = process.stdout.readline().strip()
        watchdog.cancel()
        return line


def test_a_cut_link_says_nothing_and_can_be_healed(hosts: Network) -> None:
    with Conversation(hosts) as conversation:
        assert conversation.ask("one") == "heard one"
        hosts.cut("a", "b")
        assert conversation.ask("two") == "TimeoutError"
        hosts.heal()
        answers = [conversation.ask("three") for _ in range(5)]  # what was sent is sent again by and by
        assert any(answer.startswith("heard") for answer in answers), answers


def test_a_host_without_its_cable_says_nothing(hosts: Network) -> None:
    with Conversation(hosts) as conversation:
        hosts.isolate("b")
        assert conversation.ask("one") == "TimeoutError"


def test_a_reset_is_seen_at_once(hosts: Network) -> None:
    with Conversation(hosts) as conversation:
        assert hosts.reset("a", "b") == 1
        assert conversation.ask("one") in ("ConnectionAbortedError", "BrokenPipeError", "ConnectionResetError")


def test_nothing_is_left_of_a_host_that_is_killed(hosts: Network) -> None:
    with Conversation(hosts):
        assert len(hosts.processes("b")) == 1
        hosts.kill("b")
        assert hosts.processes("b") == []
