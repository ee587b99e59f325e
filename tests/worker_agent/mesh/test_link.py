"""The link as a process: what it carries, and how it ends."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker_agent.mesh.cluster import DEADLINE, SECRET, Gateway, Link, Mesh, Program, Service, wait_until
from tests.worker_agent.mesh.folders import revoke

SERVICE = "rpc/chat-x.1"


class Group:
    """A main server's host w1, and two peers with an RPC server each."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.servers: dict[str, Service] = {name: mesh.service() for name in ("w2", "w3")}
        self.gateways: dict[str, Gateway] = {}
        for number, (name, server) in enumerate(self.servers.items(), 2):
            self.gateways[name] = mesh.gateway(name, host=f"127.0.0.{number}")
            self.gateways[name].grants.grant(SERVICE, server.port, ["worker/w1"])
        self.link: Link = mesh.link("w1", SERVICE, self.gateways)

    def connected(self, name: str) -> tuple[socket.socket, socket.socket]:
        """The main server's end of a connection to the RPC server of `name`, and that one's."""
        port = self.link.ports[list(self.servers).index(name)]
        ours = self.mesh.closing(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
        theirs = self.servers[name].accepted()
        ours.sendall(name.encode())
        assert theirs.recv(10) == name.encode()
        return ours, theirs

    def held(self, name: str) -> tuple[bool, str] | None:
        found = self.gateways[name].grants.held("chat-x", 1)
        return (found.held, found.reason) if found else None


@pytest.fixture
def group(mesh: Mesh) -> Group:
    return Group(mesh)


def is_over(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_each_port_leads_to_its_own_peer(group: Group) -> None:
    for name in ("w3", "w2"):
        ours, theirs = group.connected(name)
        theirs.sendall(SECRET)
        assert ours.recv(100) == SECRET
        theirs.close()
        assert ours.recv(1) == b""
        ours.close()
    wait_until(lambda: group.held("w2") == group.held("w3") == (True, ""), "the word that both are held")


def test_one_server_serves_connections_one_after_the_other(group: Group) -> None:
    for _ in range(5):
        ours, theirs = group.connected("w2")
        ours.close()
        assert theirs.recv(1) == b""
        theirs.close()


def test_told_to_end_it_says_goodbye(group: Group) -> None:
    ours, theirs = group.connected("w2")
    group.link.send(signal.SIGTERM)
    assert group.link.ended() == 0
    assert is_over(ours)
    assert is_over(theirs)
    said = (False, "the other side has closed it")
    wait_until(lambda: group.held("w2") == group.held("w3") == said, "the word of its end")


def _kill(group: Group) -> Program:
    group.gateways["w3"].send(signal.SIGKILL)
    return group.link


def _stop(group: Group) -> Program:
    group.gateways["w3"].send(signal.SIGSTOP)
    return group.link


def _withdraw(group: Group) -> Program:
    group.gateways["w3"].grants.withdraw(SERVICE)
    return group.link


def _revoke_us(group: Group) -> Program:
    revoke(group.gateways["w3"].folder, group.mesh.serials["worker/w1"])
    return group.link


def _revoke_them(group: Group) -> Program:
    revoke(group.mesh.folder / "worker-w1", group.mesh.serials["worker/w3"])
    return group.link


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (_kill, "it broke off: "),
        (_stop, "nothing was heard for 5 s"),
        (_withdraw, "it broke off: "),
        (_revoke_us, "it broke off: "),
        (_revoke_them, "its certificate was revoked"),
    ],
)
def test_when_one_link_is_lost_all_end_and_the_last_line_says_why(
    group: Group, happens: Callable[[Group], Program], reason: str
) -> None:
    to_lost, _ = group.connected("w3")
    to_other, other = group.connected("w2")
    happens(group)
    assert group.link.ended() == 1
    last = group.link.log.splitlines()[-1]
    where = f"127.0.0.3:{group.gateways['w3'].port}"
    assert last.startswith(f"the link to w3 ({where}) was lost: {reason}")
    assert is_over(to_lost)
    assert is_over(to_other)
    assert is_over(other)
    wait_until(lambda: group.held("w2") == (False, "the other side has closed it"), "the other peer to hear of it")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_link_that_is_gone_or_frozen_is_noticed_by_the_peers(group: Group, number: signal.Signals) -> None:
    _, theirs = group.connected("w2")
    group.link.send(number)
    wait_until(lambda: (group.held("w2") or (True,))[0] is False, "the peer to notice")
    assert is_over(theirs), "what its RPC server holds for a main server that is gone is freed"


def test_an_rpc_server_that_ends_ends_its_connection_and_not_the_link(group: Group) -> None:
    ours, theirs = group.connected("w2")
    theirs.close()
    group.servers["w2"].close()
    assert is_over(ours)
    with socket.create_connection(("127.0.0.1", group.link.ports[0]), timeout=DEADLINE) as again:
        assert is_over(again)
    assert group.link.process.poll() is None


def test_a_peer_whose_gateway_comes_a_little_later_is_waited_for(mesh: Mesh) -> None:
    gateway = mesh.gateway("w2")
    link = mesh.link("w1", SERVICE, {"w2": gateway})
    wait_until(lambda: link.events("link_not_yet"), "the first try")
    assert "refuses hold rpc/chat-x.1: no such service for you" in link.events("link_not_yet")[0]["reason"]
    gateway.grants.grant(SERVICE, mesh.service().port, ["worker/w1"])
    assert len(link.ports) == 1


def test_another_workers_gateway_is_not_taken_for_the_peers(mesh: Mesh) -> None:
    gateway = mesh.gateway("w3")
    gateway.grants.grant(SERVICE, mesh.service().port, ["worker/w1"])
    link = mesh.link("w1", SERVICE, {"w2": gateway})
    assert link.ended() == 1
    assert "is another's: its certificate names worker/w3" in link.log.splitlines()[-1]
    assert gateway.grants.held("chat-x", 1) is None


@pytest.mark.parametrize("task", ["{", '{"folder": "/x"}', '{"folder":"/","service":"s","peers":[],"ready_file":"/x"}'])
def test_a_task_that_is_none_is_said(tmp_path: Path, task: str) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(task)
    program = Program(tmp_path / "log", "worker_agent.mesh.link", str(spec))
    assert program.ended() == 2
    assert "no task for a link" in program.log


def test_the_ready_file_is_for_this_user_alone(group: Group) -> None:
    ports = group.link.ports
    assert json.loads(group.link.ready_file.read_text()) == {"ports": ports}
    assert group.link.ready_file.stat().st_mode & 0o777 == 0o600
