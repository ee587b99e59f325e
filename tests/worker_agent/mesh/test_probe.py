"""The check of a way: what it finds, and why it may find none."""

import socket

import pytest

from stoker.certificates import Authority
from stoker.mesh.identity import MeshError
from tests.worker_agent.mesh.cluster import Mesh
from tests.worker_agent.mesh.folders import NOW, revoke
from worker_agent.mesh.probe import probe_link

pytestmark = pytest.mark.anyio


async def test_a_way_is_measured(mesh: Mesh) -> None:
    gateway = mesh.gateway("w2", host="127.0.0.2")
    found = await probe_link(mesh.member("worker/w1"), "w2", gateway.host, gateway.port)
    assert 0 < found.round_trip_seconds < 10
    assert found.bytes_per_second > 0
    assert gateway.events("connections_refused") == []


async def test_nobody_listens(mesh: Mesh) -> None:
    with pytest.raises(MeshError, match=r"the gateway of w2 \(127\.0\.0\.2:1\) cannot be reached: .*"):
        await probe_link(mesh.member("worker/w1"), "w2", "127.0.0.2", 1)


async def test_a_name_whose_first_address_leads_nowhere(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = mesh.gateway("w2", host="127.0.0.2")
    addresses = [("127.0.0.3", gateway.port), ("127.0.0.2", gateway.port)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert (await probe_link(mesh.member("worker/w1"), "w2", "w2.example", gateway.port)).bytes_per_second > 0


async def test_a_name_that_nobody_knows(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(MeshError, match=r"w2 \(w2\.example:1\) cannot be reached: Name or service not known"):
        await probe_link(mesh.member("worker/w1"), "w2", "w2.example", 1)


@pytest.mark.parametrize(("host", "port"), [("a..b", 8411), ("x" * 70, 8411), ("127.0.0.2", 99_999)])
async def test_an_address_that_is_none(mesh: Mesh, host: str, port: int) -> None:
    with pytest.raises(MeshError, match=r"the gateway of w2 \(.*\) cannot be reached: ."):
        await probe_link(mesh.member("worker/w1"), "w2", host, port)


async def test_another_worker_is_there(mesh: Mesh) -> None:
    gateway = mesh.gateway("w3")
    with pytest.raises(MeshError, match="is another's: its certificate names worker/w3"):
        await probe_link(mesh.member("worker/w1"), "w2", gateway.host, gateway.port)


async def test_who_is_revoked_is_told_nothing(mesh: Mesh) -> None:
    folder = mesh.member("worker/w1")
    revoke(mesh.member("worker/w2"), mesh.serials["worker/w1"])
    gateway = mesh.gateway("w2")
    with pytest.raises(MeshError, match=r"the gateway of w2 .* (broke off|refuses)"):
        await probe_link(folder, "w2", gateway.host, gateway.port)


async def test_a_stranger_is_told_that_it_is_one(mesh: Mesh) -> None:
    gateway = mesh.gateway("w2")
    folder = mesh.member("worker/w1", authority=Authority.new(NOW), known=mesh.authority)
    with pytest.raises(MeshError, match=r"do not know each other|broke off"):
        await probe_link(folder, "w2", gateway.host, gateway.port)
