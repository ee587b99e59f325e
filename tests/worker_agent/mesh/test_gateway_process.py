"""The agent's care for its gateway: adopted, started, started again."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.worker_agent.conftest import engines_of
from tests.worker_agent.mesh.cluster import Mesh, wait_until
from worker_agent.mesh import gateway_process
from worker_agent.mesh.gateway_process import GatewayError, GatewayProcess, bind_address
from worker_agent.pids import birth_of, is_alive

pytestmark = pytest.mark.anyio
HOST = "127.0.0.4"


@pytest.fixture
async def gateway(mesh: Mesh, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    gateway = GatewayProcess(mesh.member("worker/w1"), HOST, 0, tmp_path / "gateway")
    yield gateway
    await gateway.stop()


def pids(tmp_path: Path) -> list[int]:
    return [process.pid for process in engines_of(tmp_path)]


async def test_it_is_started_once_and_adopted_by_the_next_agent(gateway: GatewayProcess, tmp_path: Path) -> None:
    port = await gateway.ensure()
    (pid,) = pids(tmp_path)
    assert await gateway.ensure() == port
    successor = GatewayProcess(tmp_path / "worker-w1", HOST, 0, tmp_path / "gateway")
    assert await successor.ensure() == port
    assert pids(tmp_path) == [pid]
    with socket.create_connection((HOST, port)):
        pass


async def test_killed_it_is_started_again_at_the_same_port(gateway: GatewayProcess, tmp_path: Path) -> None:
    port = await gateway.ensure()
    (pid,) = pids(tmp_path)
    birth = birth_of(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid, birth), "it to be gone")
    assert await gateway.ensure() == port
    assert pids(tmp_path) not in ([], [pid])


async def test_one_whose_agent_died_before_it_wrote_its_record_is_not_left_over(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    await gateway.ensure()
    (pid,) = pids(tmp_path)
    (tmp_path / "gateway" / "gateway.json").unlink()
    await gateway.ensure()
    assert len(pids(tmp_path)) == 1
    assert pids(tmp_path) != [pid]


async def test_one_whose_record_the_disk_did_not_take_goes_on(
    gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await gateway.ensure()
    (first,) = pids(tmp_path)
    birth = birth_of(first)
    record_file = tmp_path / "gateway" / "gateway.json"
    record_file.unlink()
    record_file.mkdir()  # nothing takes the place of a folder
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(first, birth), "it to be gone")
    port = await gateway.ensure()
    (second,) = pids(tmp_path)
    assert await gateway.ensure() == port
    assert pids(tmp_path) == [second]
    record_file.rmdir()
    await gateway.ensure()
    successor = GatewayProcess(tmp_path / "worker-w1", HOST, 0, tmp_path / "gateway")
    assert await successor.ensure() == port
    assert pids(tmp_path) == [second]


async def test_its_log_does_not_grow_without_end(gateway: GatewayProcess, tmp_path: Path) -> None:
    await gateway.ensure()
    (pid,) = pids(tmp_path)
    log_file = tmp_path / "gateway" / "gateway.log"
    with log_file.open("ab") as file:
        file.write(b"strangers\n" * 500_000)
    await gateway.ensure()
    assert pids(tmp_path) == [pid]
    assert log_file.stat().st_size == 0
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: b"gateway_ended" in log_file.read_bytes(), "it to write on")
    assert log_file.read_bytes().startswith(b"{"), "at the new end"


async def test_stopped_it_is_gone_and_its_port_kept(gateway: GatewayProcess, tmp_path: Path) -> None:
    port = await gateway.ensure()
    await gateway.stop()
    await gateway.stop()
    assert pids(tmp_path) == []
    assert await gateway.ensure() == port


async def test_the_usual_port_is_taken_if_it_is_free_and_else_another(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        monkeypatch.setattr(gateway_process, "USUAL_PORT", taken.getsockname()[1])
        port = await gateway.ensure()
        assert port not in (0, taken.getsockname()[1])
    await gateway.stop()
    assert await gateway.ensure() == port, "others know it"


async def test_a_wanted_port_that_is_taken_is_an_error_that_says_what_to_do(mesh: Mesh, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        gateway = GatewayProcess(mesh.member("worker/w1"), HOST, port, tmp_path / "gateway")
        with pytest.raises(GatewayError, match=f"port {port} of {HOST} is taken.*--mesh-port"):
            await gateway.ensure()
    assert await gateway.ensure() == port
    await gateway.stop()


async def test_another_wanted_port_or_host_takes_effect(gateway: GatewayProcess, tmp_path: Path) -> None:
    await gateway.ensure()
    (pid,) = pids(tmp_path)
    moved = GatewayProcess(tmp_path / "worker-w1", "127.0.0.5", 0, tmp_path / "gateway")
    port = await moved.ensure()
    with socket.create_connection(("127.0.0.5", port)):
        pass
    assert pids(tmp_path) != [pid]
    assert len(pids(tmp_path)) == 1


async def test_one_that_ends_at_once_is_not_started_without_end(
    gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for _ in range(2):
        with pytest.raises(GatewayError, match="ended at once"):
            await gateway.ensure()
    with pytest.raises(GatewayError, match="in a while"):
        await gateway.ensure()
    assert pids(tmp_path) == []


async def test_what_it_needs_not_know_is_not_in_its_environment(
    gateway: GatewayProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_WORKER__JOIN_TOKEN", "a secret")
    monkeypatch.setenv("HF_TOKEN", "a secret")
    await gateway.ensure()
    (pid,) = pids(tmp_path)
    process = psutil.Process(pid)
    assert "a secret" not in process.environ().values()
    assert os.getsid(pid) == pid, "it outlives its agent"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.7", "127.0.0.7"),
        ("::1", "::1"),
        ("10.0.0.7", "0.0.0.0"),  # noqa: S104
        ("box-1.example.org", "0.0.0.0"),  # noqa: S104
        ("fd00::7", "::"),
    ],
)
def test_where_it_listens(address: str, expected: str) -> None:
    assert bind_address(address) == expected
