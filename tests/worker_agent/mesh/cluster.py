"""Gateways and links as processes, on this machine's loopback addresses or in namespaces, and what they lead to."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from stoker.certificates import Authority
from stoker.mesh.identity import MeshIdentity
from tests.worker_agent.mesh.folders import NOW, enrol
from worker_agent.mesh.grants import Grants

DEADLINE = 30.0  # seconds, of every wait
SECRET = b"weights of the model"


def wait_until(true: Callable[[], object], what: str) -> None:
    """Waits for it. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, f"waited {DEADLINE:g} s for {what}"
        time.sleep(0.02)


class Program:
    """One of the mesh's programs, running. Its log is what it wrote to stderr."""

    def __init__(self, log_file: Path, module: str, *arguments: str, inside: Sequence[str] = ()) -> None:
        self.log_file = log_file
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """All that it has written."""
        return self.log_file.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Its log lines of that name."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # also where it is stopped
        self.process.wait(DEADLINE)


class Gateway(Program):
    """A worker's gateway, which listens."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0, inside: Sequence[str] = ()) -> None:
        log_file = folder.parent / f"{folder.name}.gateway.log"
        log_file.unlink(missing_ok=True)
        super().__init__(log_file, "worker_agent.mesh.gateway", str(folder), host, str(port), inside=inside)
        self.folder, self.host = folder, host
        self.grants = Grants(folder)
        wait_until(lambda: self.events("gateway_listening") or self.process.poll() is not None, "the gateway")
        assert self.process.poll() is None, self.log
        self.port = int(self.events("gateway_listening")[0]["port"])


class Link(Program):
    """A main server's link. `ports` are there once it is ready."""

    def __init__(self, folder: Path, service: str, peers: dict[str, Gateway], inside: Sequence[str] = ()) -> None:
        self.ready_file = folder.parent / f"{folder.name}.ready.json"
        self.ready_file.unlink(missing_ok=True)
        spec = folder.parent / f"{folder.name}.link.json"
        told = [{"worker": name, "host": peer.host, "port": peer.port} for name, peer in peers.items()]
        task = {"folder": str(folder), "service": service, "peers": told, "ready_file": str(self.ready_file)}
        spec.write_text(json.dumps(task))
        log_file = folder.parent / f"{folder.name}.link.log"
        log_file.unlink(missing_ok=True)
        super().__init__(log_file, "worker_agent.mesh.link", str(spec), inside=inside)

    @property
    def ports(self) -> list[int]:
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None, "the link")
        assert self.process.poll() is None, self.log
        ports: list[int] = json.loads(self.ready_file.read_text())["ports"]
        return ports


class Mesh:
    """A cluster: one authority, and the folders, gateways and links of its members."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.authority = Authority.new(NOW)
        self.serials: dict[str, str] = {}
        self.services: list[Service] = []

    def member(self, holder: str, **differently: Any) -> Path:
        """The folder of "server" or "worker/<name>", with its certificate."""
        folder = self.folder / holder.replace("/", "-")
        self.serials[holder] = enrol(folder, holder, **{"authority": self.authority, **differently})
        return folder

    def gateway(self, name: str, **where: Any) -> Gateway:
        """The gateway of a worker, which has a certificate already or gets one now."""
        folder = self.folder / f"worker-{name}"
        if not folder.exists():
            self.member(f"worker/{name}")
        gateway = Gateway(folder, **where)
        self._stack.callback(gateway.close)
        return gateway

    def link(self, name: str, service: str, peers: dict[str, Gateway], **where: Any) -> Link:
        """A link on the host of the worker `name`."""
        folder = self.folder / f"worker-{name}"
        if not folder.exists():
            self.member(f"worker/{name}")
        link = Link(folder, service, peers, **where)
        self._stack.callback(link.close)
        return link

    def service(self) -> "Service":
        """Something that listens on loopback."""
        service = Service()
        self.services.append(service)
        self._stack.callback(service.close)
        return service

    def closing(self, connection: socket.socket) -> socket.socket:
        """A connection that is closed with the test."""
        self._stack.callback(connection.close)
        return connection

    def knock(self, folder: Path, gateway: Gateway, context: ssl.SSLContext | None = None) -> "Client":
        """A connection to a gateway with the identity in `folder`, or what was made of it. Raises OSError."""
        context = context or MeshIdentity(folder).for_client()
        raw = self.closing(socket.create_connection((gateway.host, gateway.port), timeout=DEADLINE))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = context.wrap_socket(raw, suppress_ragged_eofs=False, do_handshake_on_connect=False)
        self._stack.callback(secure.close)
        secure.do_handshake()
        return Client(secure)


class Client:
    """One TLS connection to a gateway."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection

    def ask(self, line: bytes) -> bytes:
        """The first line of the answer; empty: it was closed without one. Raises OSError."""
        self.connection.sendall(line)
        answer = b""
        while not answer.endswith(b"\n") and (byte := self.connection.recv(1)):
            answer += byte
        return answer

    def is_cut(self) -> bool:
        """Whether the connection ends, with no byte more."""
        try:
            return self.connection.recv(1) == b""
        except OSError:
            return True

    def heartbeats_until_cut(self) -> int:
        """How many bytes come before the connection ends."""
        count = 0
        try:
            while self.connection.recv(1):
                count += 1
        except OSError:
            pass
        return count


class HalfCloser:
    """A client that can end what it sends and still receive, which ssl.SSLSocket cannot."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self._raw = socket.create_connection((gateway.host, gateway.port), timeout=DEADLINE)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = MeshIdentity(folder).for_client().wrap_bio(self._incoming, self._outgoing)
        self._finished(self._tls.do_handshake)

    def __enter__(self) -> "HalfCloser":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._raw.sendall(self._outgoing.read())

    def end(self) -> None:
        """Nothing more will be sent."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._raw.sendall(self._outgoing.read())

    def receive(self) -> bytes:
        """What comes next; empty: the other side has ended what it sends."""
        try:
            data: bytes = self._finished(lambda: self._tls.read(65_536))
        except ssl.SSLZeroReturnError:
            return b""
        return data

    def is_closed(self) -> bool:
        """Whether TCP ends in good order."""
        return self._raw.recv(1) == b""

    def _finished(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                if self._outgoing.pending:
                    self._raw.sendall(self._outgoing.read())
            data = self._raw.recv(65_536)
            if not data:
                raise ConnectionResetError("it ended without a goodbye")
            self._incoming.write(data)


class Service:
    """A listener on loopback that counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []

    def accepted(self) -> socket.socket:
        """The next connection."""
        connection, _ = self._listener.accept()
        connection.settimeout(DEADLINE)
        self._open.append(connection)
        return connection

    def is_untouched(self) -> bool:
        """Whether nobody waits to be accepted."""
        self._listener.settimeout(0)
        try:
            self._open.append(self._listener.accept()[0])
        except BlockingIOError:
            return True
        finally:
            self._listener.settimeout(DEADLINE)
        return False

    def close(self) -> None:
        for connection in (*self._open, self._listener):
            connection.close()
