"""The check of a way, as the instance's workflow hears of it: good or bad, it is an answer."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from activities.ports import MeshPeer
from stoker.domain.links import WorkerLink
from stoker.domain.workers import Engine, EngineKind
from stoker.mesh.identity import MeshError
from worker_agent import host_mesh
from worker_agent.host_mesh import GatewayMesh
from worker_agent.mesh.probe import LinkProbe

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWN = MeshPeer(worker="w1", host="10.0.0.1", port=8411)
PEER = MeshPeer(worker="w2", host="10.0.0.2", port=8412)
ENGINE = Engine(kind=EngineKind.NATIVE, version="1", rpc_protocol="7.0.0")


def mesh(folder: Path) -> GatewayMesh:
    """Of w1."""
    return GatewayMesh(folder, ENGINE, lambda: OWN, lambda: NOW)


async def test_what_it_says_of_itself(tmp_path: Path) -> None:
    assert (mesh(tmp_path).gateway, mesh(tmp_path).engine) == (OWN, ENGINE)


async def test_a_good_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    async def probe(*what: object) -> LinkProbe:
        asked.append(what)
        return LinkProbe(round_trip_seconds=0.002, bytes_per_second=7)

    monkeypatch.setattr(host_mesh, "probe_link", probe)
    found = await mesh(tmp_path).check(PEER)
    assert found == WorkerLink(worker="w1", peer="w2", round_trip_seconds=0.002, bytes_per_second=7, checked_at=NOW)
    assert asked == [(tmp_path, "w2", "10.0.0.2", 8412)]


async def test_a_way_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe(*_: object) -> LinkProbe:
        raise MeshError("the gateway of w2 cannot be reached: refused")

    monkeypatch.setattr(host_mesh, "probe_link", probe)
    found = await mesh(tmp_path).check(PEER)
    assert (found.problem, found.bytes_per_second) == ("the gateway of w2 cannot be reached: refused", 0)


async def test_a_peer_without_a_gateway(tmp_path: Path) -> None:
    found = await mesh(tmp_path).check(PEER.model_copy(update={"port": 0}))
    assert found.problem == "w2 has no gateway"


async def test_a_host_without_an_identity_says_so(tmp_path: Path) -> None:
    found = await mesh(tmp_path / "nothing").check(PEER)
    assert found.problem
