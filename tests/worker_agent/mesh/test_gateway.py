"""The gateway as a process: who is let in, to what, and until when."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from stoker.certificates import Authority
from stoker.domain.units import MIB
from stoker.mesh.identity import MeshIdentity, peer_of
from stoker.mesh.wire import SERVER
from tests.worker_agent.mesh.cluster import DEADLINE, SECRET, Client, Gateway, HalfCloser, Mesh, Service, wait_until
from tests.worker_agent.mesh.folders import NOW, enrol, revoke
from worker_agent.mesh.grants import ANY_WORKER
from worker_agent.mesh.policy import PATIENCE_SECONDS
from worker_agent.mesh.sessions import MAX_OF_WORKER

OPEN = b"open main/chat-x.1\n"
HOLD = b"hold rpc/chat-x.1\n"


@pytest.fixture
def service(mesh: Mesh) -> Service:
    return mesh.service()


@pytest.fixture
def gateway(mesh: Mesh, service: Service) -> Gateway:
    """That of w2: the server may reach its main server, and w1 its RPC server."""
    gateway = mesh.gateway("w2")
    gateway.grants.grant("main/chat-x.1", service.port, [SERVER])
    gateway.grants.grant("rpc/chat-x.1", service.port, ["worker/w1"])
    wait_until_granted(mesh, gateway)
    return gateway


def wait_until_granted(mesh: Mesh, gateway: Gateway) -> None:
    """Until the gateway knows what was granted last: the grants are read together."""
    probe = mesh.service()
    gateway.grants.grant("files", probe.port, [ANY_WORKER])
    folder = mesh.member("worker/asks")
    wait_until(lambda: mesh.knock(folder, gateway).ask(b"open files\n") == b"+\n", "the grants to be seen")


def opened(mesh: Mesh, gateway: Gateway, service: Service) -> tuple[Client, socket.socket]:
    client = mesh.knock(mesh.member("server"), gateway)
    assert client.ask(OPEN) == b"+\n"
    return client, service.accepted()


# --- who may ---------------------------------------------------------------------------------------------------


def test_bytes_go_both_ways(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, engine = opened(mesh, gateway, service)
    client.connection.sendall(b"ping")
    assert engine.recv(10) == b"ping"
    engine.sendall(SECRET)
    assert client.connection.recv(100) == SECRET


def test_each_way_ends_by_itself(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    with HalfCloser(mesh.member("server"), gateway) as client:
        client.send(OPEN)
        assert client.receive() == b"+\n"
        engine = service.accepted()
        client.end()
        assert engine.recv(1) == b""
        engine.sendall(SECRET)  # the other way is open still
        assert client.receive() == SECRET
        engine.close()
        assert client.receive() == b""
        assert client.is_closed()


def test_the_other_way_may_end_first(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    with HalfCloser(mesh.member("server"), gateway) as client:
        client.send(OPEN)
        assert client.receive() == b"+\n"
        engine = service.accepted()
        engine.sendall(SECRET)
        engine.shutdown(socket.SHUT_WR)
        assert client.receive() == SECRET
        assert client.receive() == b""
        client.send(b"still here")
        assert engine.recv(100) == b"still here"
        client.end()
        assert engine.recv(1) == b""
        assert client.is_closed()


def test_what_an_engine_breaks_off_is_not_taken_for_whole(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, engine = opened(mesh, gateway, service)
    engine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    engine.close()
    with pytest.raises(OSError, match=r"reset|EOF"):
        client.connection.recv(1)


def test_an_engine_that_is_not_there(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    service.close()
    client = mesh.knock(mesh.member("server"), gateway)
    assert client.ask(OPEN).startswith(b"-nothing answers there")
    assert client.is_cut()


NOT_YOURS = b"-no such service for you\n"


@pytest.mark.parametrize(
    ("holder", "line", "answer"),
    [
        ("worker/w1", OPEN, NOT_YOURS),  # the server's
        ("worker/w3", HOLD, NOT_YOURS),  # w1's
        ("server", HOLD, NOT_YOURS),
        ("server", b"open main/chat-x.2\n", NOT_YOURS),  # there is none
        ("server", b"open agent\n", NOT_YOURS),
        ("worker/w1", b"open rpc/chat-x.1\n", b"-its link is not held\n"),
        ("server", b"open rpc/../main.1\n", b""),
        ("server", b"GET / HTTP/1.1\r\n", b""),
        ("server", b"x" * 400, b""),
    ],
)
def test_a_member_gets_what_is_its_own_and_nothing_else(
    mesh: Mesh, gateway: Gateway, service: Service, holder: str, line: bytes, answer: bytes
) -> None:
    client = mesh.knock(mesh.member(holder), gateway)
    try:
        said = client.ask(line)
    except OSError:  # a reset
        said = b""
    assert said == answer
    assert client.is_cut()
    assert service.is_untouched()


def _of_another_authority(mesh: Mesh) -> Path:
    return mesh.member("server", authority=Authority.new(NOW), known=mesh.authority)


def _expired(mesh: Mesh) -> Path:
    return mesh.member("server", now=NOW - timedelta(days=3))


def _not_valid_yet(mesh: Mesh) -> Path:
    return mesh.member("server", now=NOW + timedelta(days=3))


def _revoked(mesh: Mesh) -> Path:
    folder = mesh.member("server")
    revoke(mesh.folder / "worker-w2", "1", mesh.serials["server"])
    time.sleep(1.0)  # past the gateway's next look
    return folder


@pytest.mark.parametrize("made", [_of_another_authority, _expired, _not_valid_yet, _revoked])
def test_a_certificate_that_does_not_hold_opens_nothing(
    mesh: Mesh, gateway: Gateway, service: Service, made: Callable[[Mesh], Path]
) -> None:
    folder = made(mesh)
    for line in (OPEN, b"probe -\n"):
        with pytest.raises(OSError, match=r".+"):  # noqa: PT012 - TLS 1.3: the client hears of it at its first read
            client = mesh.knock(folder, gateway)
            assert client.ask(line) == b""
            raise ConnectionResetError("closed without a word")
    assert service.is_untouched()


@pytest.mark.parametrize(
    "sent",
    [
        b"open main/chat-x.1\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",  # the beginning of a handshake
        b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        bytes(70_000),
        b"",
    ],
)
def test_a_stranger_gets_no_byte_of_anything(gateway: Gateway, service: Service, sent: bytes) -> None:
    with socket.create_connection((gateway.host, gateway.port), timeout=DEADLINE) as stranger:
        heard = b""
        try:
            stranger.sendall(sent)
            while data := stranger.recv(65_536):
                heard += data
        except ConnectionError:
            pass
    assert len(heard) <= 7  # at most TLS's word that this was none
    assert service.is_untouched()


def test_without_a_certificate_of_its_own_it_lets_nobody_in(mesh: Mesh) -> None:
    (mesh.folder / "worker-w9").mkdir()
    gateway = mesh.gateway("w9")
    folder = mesh.member("server")
    assert not _answers(mesh, folder, gateway)
    mesh.member("worker/w9")  # now it has joined
    wait_until(lambda: _answers(mesh, folder, gateway), "the certificate to be seen")


def _answers(mesh: Mesh, folder: Path, gateway: Gateway) -> bool:
    try:
        return mesh.knock(folder, gateway).ask(b"probe -\n") == b"+\n"
    except OSError:
        return False


# --- many and slow ones ------------------------------------------------------------------------------------------


def test_a_crowd_of_strangers_keeps_nobody_out(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    crowd = [socket.create_connection((gateway.host, gateway.port), timeout=DEADLINE) for _ in range(300)]
    try:
        client, engine = opened(mesh, gateway, service)
        client.connection.sendall(b"ping")
        assert engine.recv(4) == b"ping"
        assert all(_is_closed(stranger) for stranger in crowd), "each is sent away in the end"
        client.connection.sendall(b"pong")
        assert engine.recv(4) == b"pong"
    finally:
        for stranger in crowd:
            stranger.close()
    assert len(gateway.log.splitlines()) < 10, "a line for each would fill the disk"


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_member_gone_wild_shuts_nobody_out(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    probe, folder, own = mesh.services[-1], mesh.member("worker/wild"), []
    context = MeshIdentity(folder).for_client()
    while (client := mesh.knock(folder, gateway, context)).ask(b"open files\n") == b"+\n":
        own.append(client)
        probe.accepted()
    assert len(own) == MAX_OF_WORKER
    client, engine = opened(mesh, gateway, service)
    client.connection.sendall(b"ping")
    assert engine.recv(4) == b"ping"
    own[0].connection.close()
    wait_until(lambda: mesh.knock(folder, gateway).ask(b"open files\n") == b"+\n", "room for another")


def test_where_few_files_may_be_open_it_goes_on_looking_after_its_grants(mesh: Mesh, service: Service) -> None:
    few = ("/bin/sh", "-c", 'ulimit -n 96; exec "$@"', "sh")
    gateway = mesh.gateway("w2", inside=few)
    gateway.grants.grant("main/chat-x.1", service.port, [SERVER])
    wait_until_granted(mesh, gateway)
    clients = [opened(mesh, gateway, service)[0] for _ in range(12)]
    for _ in range(80):
        with contextlib.suppress(ConnectionError):  # strangers, of whom some are sent away at once
            mesh.closing(socket.create_connection((gateway.host, gateway.port), timeout=DEADLINE))
    gateway.grants.withdraw("main/chat-x.1")
    assert all(client.is_cut() for client in clients), "it still sees what is withdrawn"
    assert gateway.events("grants_unreadable") == []


def test_who_reads_slowly_holds_up_the_sender_and_not_the_memory(
    mesh: Mesh, gateway: Gateway, service: Service
) -> None:
    client, engine = opened(mesh, gateway, service)
    process = psutil.Process(gateway.process.pid)
    before, sent = process.memory_info().rss, 0
    engine.setblocking(False)
    block, quiet = bytes(MIB), 0
    while quiet < 20:  # until for some time nothing more is taken
        try:
            sent += engine.send(block)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.05)
    assert process.memory_info().rss - before < 8 * MIB
    engine.setblocking(True)
    got = 0
    while got < sent:
        got += len(client.connection.recv(MIB))
    assert got == sent
    engine.sendall(b"more")
    assert client.connection.recv(10) == b"more"


# --- until when --------------------------------------------------------------------------------------------------


def test_what_is_withdrawn_is_cut(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, engine = opened(mesh, gateway, service)
    gateway.grants.withdraw("main/chat-x.1")
    assert client.is_cut()
    assert _is_closed(engine)
    again = mesh.knock(mesh.folder / "server", gateway)
    assert again.ask(OPEN) == NOT_YOURS


def test_who_is_revoked_is_cut(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, engine = opened(mesh, gateway, service)
    revoke(gateway.folder, mesh.serials["server"])
    assert client.is_cut()
    assert _is_closed(engine)


def test_who_is_not_meant_goes_on(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, engine = opened(mesh, gateway, service)
    revoke(gateway.folder, "abc")
    gateway.grants.withdraw("rpc/chat-x.1")
    wait_until_granted(mesh, gateway)
    client.connection.sendall(b"ping")
    assert engine.recv(4) == b"ping"


def test_a_renewed_certificate_is_shown_from_then_on(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, engine = opened(mesh, gateway, service)
    before = peer_of(client.connection)
    renewed = enrol(gateway.folder, "worker/w2", mesh.authority)

    def shows_it() -> bool:
        peer = peer_of(mesh.knock(mesh.folder / "server", gateway).connection)
        return peer is not None and peer.serial == renewed

    wait_until(shows_it, "the new certificate to be shown")
    assert before is not None
    assert before.serial != renewed
    client.connection.sendall(b"ping")  # who is in stays in
    assert engine.recv(4) == b"ping"


def test_a_folder_that_cannot_be_read_for_a_moment_changes_nothing(
    mesh: Mesh, gateway: Gateway, service: Service
) -> None:
    client, engine = opened(mesh, gateway, service)
    away = gateway.folder.with_name("away")
    gateway.folder.rename(away)
    wait_until(lambda: gateway.events("grants_unreadable"), "it to notice")
    client.connection.sendall(b"ping")
    assert engine.recv(4) == b"ping"
    assert mesh.knock(mesh.folder / "server", gateway).ask(OPEN) == b"+\n"
    away.rename(gateway.folder)


def test_a_folder_that_stays_away_grants_nothing(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    client, _ = opened(mesh, gateway, service)
    gateway.folder.rename(gateway.folder.with_name("away"))
    assert PATIENCE_SECONDS < DEADLINE
    assert client.is_cut()


# --- held links --------------------------------------------------------------------------------------------------


def held(gateway: Gateway) -> object:
    found = gateway.grants.held("chat-x", 1)
    return found and (found.held, found.reason)


def hold(mesh: Mesh, gateway: Gateway) -> tuple[Client, Path]:
    folder = mesh.member("worker/w1")
    holder = mesh.knock(folder, gateway)
    assert holder.ask(HOLD) == b"+\n"
    wait_until(lambda: held(gateway) == (True, ""), "the word that it is held")
    return holder, folder


def test_a_held_link_is_told_and_opens_the_way(mesh: Mesh, gateway: Gateway, service: Service) -> None:
    assert held(gateway) is None
    holder, folder = hold(mesh, gateway)
    assert holder.connection.recv(1) == b"."
    client = mesh.knock(folder, gateway)
    assert client.ask(b"open rpc/chat-x.1\n") == b"+\n"
    engine = service.accepted()
    engine.sendall(SECRET)
    assert client.connection.recv(100) == SECRET
    holder.connection.close()
    wait_until(lambda: held(gateway) not in (None, (True, "")), "the word that it is lost")
    assert client.is_cut()
    assert _is_closed(engine)


def test_a_silent_holder_is_noticed(mesh: Mesh, gateway: Gateway) -> None:
    holder, _ = hold(mesh, gateway)
    wait_until(lambda: held(gateway) == (False, "nothing was heard for 5 s"), "the silence to be noticed")
    assert holder.heartbeats_until_cut() > 3


def test_a_new_holder_takes_the_place_of_the_old_one(mesh: Mesh, gateway: Gateway) -> None:
    first, folder = hold(mesh, gateway)
    second = mesh.knock(folder, gateway)
    assert second.ask(HOLD) == b"+\n"
    first.heartbeats_until_cut()
    assert second.connection.recv(1) == b"."
    assert held(gateway) == (True, "")


def test_a_service_that_is_withdrawn_leaves_no_word(mesh: Mesh, gateway: Gateway) -> None:
    hold(mesh, gateway)
    gateway.grants.withdraw("rpc/chat-x.1")
    wait_until(lambda: gateway.events("link_ended"), "the link to be cut")
    wait_until_granted(mesh, gateway)
    assert held(gateway) is None


def test_a_link_that_ends_as_it_is_withdrawn_leaves_no_word(mesh: Mesh, gateway: Gateway) -> None:
    holder, _ = hold(mesh, gateway)
    holder.connection.close()
    wait_until(lambda: gateway.events("link_ended") or gateway.events("link_lost"), "the end to be seen")
    gateway.grants.withdraw("rpc/chat-x.1")  # in this order a group ends
    for number in (1, 2):  # with the second look it has written all that it knew at the first
        gateway.grants.grant(f"main/chat-y.{number}", mesh.service().port, [ANY_WORKER])
        folder, line = mesh.member("worker/asks"), f"open main/chat-y.{number}\n".encode()
        wait_until(lambda: mesh.knock(folder, gateway).ask(line) == b"+\n", "the gateway's look")  # noqa: B023
    assert held(gateway) is None


def test_told_to_end_it_ends_in_good_order(mesh: Mesh, gateway: Gateway) -> None:
    hold(mesh, gateway)
    gateway.send(signal.SIGTERM)
    assert gateway.ended() == 0
    assert held(gateway) == (False, "the gateway of this host was stopped")


def test_killed_its_successor_says_that_the_link_is_lost(mesh: Mesh, gateway: Gateway) -> None:
    hold(mesh, gateway)
    gateway.send(signal.SIGKILL)
    gateway.ended()
    assert held(gateway) == (True, "")
    mesh.gateway("w2", port=gateway.port)
    wait_until(lambda: held(gateway) == (False, "the gateway of this host has ended"), "the word of the new one")


# --- the program -------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said(mesh: Mesh, gateway: Gateway) -> None:
    with pytest.raises(AssertionError, match="gateway_cannot_start"):
        mesh.gateway("w3", port=gateway.port)


def test_it_holds_no_secret_that_others_could_see(gateway: Gateway) -> None:
    key = (gateway.folder / "key.pem").read_text().splitlines()[1]
    process = psutil.Process(gateway.process.pid)
    assert key not in " ".join(process.cmdline())
    assert key not in gateway.log
    assert os.getsid(gateway.process.pid) == gateway.process.pid
