"""One model over three workers, none of which could hold it: real agents, gateways, links and engines."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.fleet import Fleet, running_fleet
from tests.e2e.system import eventually, free_ports
from worker_agent.engine_store import InstalledEngine

ROOMS = {"w1": "480MiB", "w2": "150MiB", "w3": "150MiB"}
REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name three fruits."}],
    "temperature": 0,
    "max_tokens": 48,
    "logprobs": True,
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, native_engine: InstalledEngine, smollm2: Path) -> Iterator[Fleet]:
    """Three workers that serve SmolLM2 together."""
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(folder, ROOMS, native_engine, model_dir=smollm2.parent) as fleet:
        fleet.cli("deploy", "smol", "--model", f"file:{smollm2}", "--context", "2048", "--slots", "1")
        yield fleet
        fleet.cli("rm", "smol")
        assert fleet.roles() == {}, "the group left a process"
        assert fleet.claims() == {}


@pytest.fixture(scope="module")
def alone(native_engine: InstalledEngine, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tokens that one llama-server on this host answers by itself."""
    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("alone") / "log"
    command = [str(native_engine.program("llama-server")), "-m", str(smollm2), "-c", "2048", "-np", "1", "-fa", "on"]
    with (
        log.open("wb") as out,
        subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=out, stderr=out) as server,
    ):
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
                eventually(lambda: _healthy(client), log.read_text)
                return _tokens(client.post("/v1/chat/completions", json=REQUEST).raise_for_status().json())
        finally:
            server.kill()


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def _tokens(answer: dict[str, Any]) -> list[str]:
    return [token["token"] for token in answer["choices"][0]["logprobs"]["content"]]


def tokens(fleet: Fleet) -> list[str]:
    """What the group answers when it may not choose."""
    with fleet.openai(timeout=120) as client:
        return _tokens(client.chat.completions.create(model="smol", **REQUEST).model_dump())


def members(fleet: Fleet) -> set[str]:
    """Which processes of instances there are."""
    return set(fleet.roles())


GROUP = {"w1/main", "w1/link", "w2/rpc", "w3/rpc"}


def test_three_workers_serve_what_none_could_alone_and_answer_the_same(fleet: Fleet, alone: list[str]) -> None:
    (instance,) = fleet.running("smol")
    assert instance["placement"]["tier"] == "cpu_several_workers"
    assert instance["placement"]["workers"][0] == "w1"
    assert sorted(instance["placement"]["workers"]) == ["w1", "w2", "w3"]
    assert members(fleet) == GROUP
    assert len(alone) > 5
    assert tokens(fleet) == alone


def test_describe_shows_layers_bytes_and_links(fleet: Fleet) -> None:
    (instance,) = fleet.running("smol")
    shares = {share["worker"]: share for share in instance["placement"]["shares"] if share["layers"]}
    assert set(shares) == {"w2", "w3"}
    assert {(link["worker"], link["peer"]) for link in instance["links"]} == {("w1", "w2"), ("w1", "w3")}
    assert all(link["round_trip_seconds"] > 0 and link["bytes_per_second"] > 10**6 for link in instance["links"])
    assert not any(link["problem"] for link in instance["links"])
    memory = {one["device"]: one for one in instance["memory"]}
    assert all(memory[f"{worker}/cpu"]["measured"]["weights_bytes"] > 10**7 for worker in ("w2", "w3"))
    assert all((one["error_ratio"] or 0) <= 0.02 for one in memory.values()), "the claims are what it took, or more"
    shown = fleet.cli("describe", "smol").stdout
    for worker, share in shares.items():
        assert re.search(rf"{worker}: cpu \({share['layers']} layers, [0-9.]+ MiB\)", shown)
        assert re.search(rf"w1 to {worker}: [0-9.e-]+ ms there and back, [0-9.]+ .iB/s", shown)


def test_only_gateways_can_be_reached_from_elsewhere(fleet: Fleet) -> None:
    fleet.running("smol")
    for process in fleet.processes():
        gateway = "worker_agent.mesh.gateway" in process.cmdline()
        for one in process.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and not gateway:
                assert one.laddr.ip == "127.0.0.1", process.cmdline()


def test_a_killed_rpc_server_ends_the_group_and_another_one_answers(fleet: Fleet, alone: list[str]) -> None:
    (before,) = fleet.running("smol")
    old = fleet.roles()
    psutil.Process(old["w2/rpc"]).kill()
    (after,) = eventually(
        lambda: [one for one in fleet.running("smol", seconds=120) if one["incarnation"] > before["incarnation"]],
        lambda: f"{fleet.deployment('smol')}\n{fleet.logs()}",
        seconds=120,
    )
    assert after["id"] == before["id"]
    assert "w2" in after["avoids"], "it failed the instance of late; nothing else fits"
    now = fleet.roles()
    assert set(now) == GROUP
    assert not set(old.values()) & set(now.values()), "all of the old group is gone"
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in old.values())
    assert tokens(fleet) == alone
    assert (
        "w2, which failed it of late; nothing else fits, so it is on w2 again" in fleet.cli("describe", "smol").stdout
    )
