"""RPC servers and links under the supervisor: where they listen, who may reach them, and what ends them."""

import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from activities.ports import LinkSpec, MeshPeer, ProcessPhase, ProcessStartError, RpcServerSpec
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.workers import DeviceKind
from tests.worker_agent.conftest import KEY, FakeEngine, OpenSupervisor, engines_of, reached
from worker_agent import rpc_role
from worker_agent.engine_choice import open_installed
from worker_agent.engine_store import InstalledEngine
from worker_agent.engines import BundledEngine, NativeEngine
from worker_agent.link_role import LinkRole
from worker_agent.main_role import MainServerRole
from worker_agent.mesh.grants import Grants, Held, rpc_service
from worker_agent.records import ProcessRecord
from worker_agent.roles import Launch

pytestmark = pytest.mark.anyio

RPC_KEY = KEY.model_copy(update={"role": "rpc"})
SERVICE = rpc_service(KEY.instance_id, KEY.incarnation)


def make_rpc(*devices: DeviceShare) -> RpcServerSpec:
    """This host, `there`, lends its CPU twice to the main server of `here`."""
    lent = DeviceShare(worker="there", device="cpu", kind=DeviceKind.CPU, layers=2, claim=0)
    estimate = MemoryEstimate(context_length=2048, slots=1)
    placement = Placement(worker="here", shares=devices or (lent, lent), estimate=estimate)
    return RpcServerSpec(key=RPC_KEY, placement=placement, worker="there", threads=1)


@pytest.fixture(scope="session")
def native(native_engine: InstalledEngine) -> NativeEngine:
    """It, as the agent opens it."""
    return open_installed(native_engine)


@pytest.fixture
def grants(tmp_path: Path) -> Grants:
    """What the gateway of the supervisors' host reads."""
    return Grants(tmp_path / "state" / "mesh")


async def test_it_is_ready_when_it_listens_and_nobody_has_spoken_to_it(
    open_supervisor: OpenSupervisor, native: NativeEngine, grants: Grants, tmp_path: Path
) -> None:
    async with open_supervisor(native) as supervisor:
        await supervisor.ensure_started(make_rpc())
        ready = await reached(supervisor, ProcessPhase.READY, RPC_KEY)
        process = psutil.Process(ready.pid)
        (listener,) = [one for one in process.net_connections(kind="tcp") if one.status == psutil.CONN_LISTEN]
        assert (listener.laddr.ip, listener.laddr.port) == ("127.0.0.1", ready.port)
        command = process.cmdline()
        assert command[command.index("--device") + 1] == "CPU,CPU"
        assert command[command.index("--threads") + 1] == "1"
        assert "LLAMA_API_KEY" not in process.environ()
        ignored = int(Path(f"/proc/{ready.pid}/status").read_text().split("SigIgn:\t")[1].split()[0], 16)
        assert ignored & (1 << (signal.SIGPIPE - 1)), "or a main server that vanishes would take it along"
        (log,) = (tmp_path / "logs").glob("*.rpc.log")
        assert "Accepted client connection" not in log.read_text()

        grant = grants.all()[SERVICE]
        assert (grant.port, grant.peers) == (ready.port, ("worker/here",))
        await supervisor.kill(RPC_KEY)
        assert grants.all() == {}


async def test_the_next_agent_adopts_it(open_supervisor: OpenSupervisor, native: NativeEngine, grants: Grants) -> None:
    async with open_supervisor(native) as supervisor:
        await supervisor.ensure_started(make_rpc())
        first = await reached(supervisor, ProcessPhase.READY, RPC_KEY)
    assert SERVICE in grants.all(), "the group lives on without an agent"
    grants.withdraw(SERVICE)
    async with open_supervisor(native) as supervisor:
        again = await supervisor.ensure_started(make_rpc())
        assert (again.pid, again.port, again.phase, again.adopted) == (first.pid, first.port, ProcessPhase.READY, True)
        assert grants.all()[SERVICE].port == first.port
        await supervisor.kill(RPC_KEY)


async def test_one_that_died_while_no_agent_watched_is_open_to_nobody(
    open_supervisor: OpenSupervisor, native: NativeEngine, grants: Grants
) -> None:
    async with open_supervisor(native) as supervisor:
        await supervisor.ensure_started(make_rpc())
        first = await reached(supervisor, ProcessPhase.READY, RPC_KEY)
    process = psutil.Process(first.pid)
    process.kill()
    process.wait(10)
    async with open_supervisor(native) as supervisor:
        assert supervisor.statuses()[RPC_KEY].phase is ProcessPhase.EXITED
        assert grants.all() == {}


async def test_a_port_that_another_took_first_is_no_reason_to_give_up(
    open_supervisor: OpenSupervisor, native: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = rpc_role.free_port
        ports = iter([taken.getsockname()[1], taken.getsockname()[1]])
        monkeypatch.setattr(rpc_role, "free_port", lambda: next(ports, 0) or free())
        async with open_supervisor(native) as supervisor:
            status = await supervisor.ensure_started(make_rpc())
            assert status.phase is ProcessPhase.READY
            assert status.port not in (0, taken.getsockname()[1])
            await supervisor.kill(RPC_KEY)


async def test_where_every_port_is_taken_it_says_so(
    open_supervisor: OpenSupervisor, native: NativeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(rpc_role, "free_port", lambda: taken.getsockname()[1])
        async with open_supervisor(native) as supervisor:
            await supervisor.ensure_started(make_rpc())
            status = await reached(supervisor, ProcessPhase.EXITED, RPC_KEY)
            assert "Failed to create server socket" in status.cause
            assert engines_of(tmp_path) == []


async def test_a_link_that_is_lost_ends_it(
    open_supervisor: OpenSupervisor, native: NativeEngine, grants: Grants
) -> None:
    async with open_supervisor(native) as supervisor:
        await supervisor.ensure_started(make_rpc())
        ready = await reached(supervisor, ProcessPhase.READY, RPC_KEY)
        grants.tell_held(SERVICE, Held(held=True, since=1.0))
        statuses = supervisor.watch(RPC_KEY)
        assert (await anext(statuses)).phase is ProcessPhase.READY
        grants.tell_held(SERVICE, Held(held=False, since=2.0, reason="nothing heard for 5 s"))
        end = await anext(statuses)
        assert end.phase is ProcessPhase.EXITED
        assert end.cause == "the link from the main server's host here was lost: nothing heard for 5 s"
        assert (end.worker, end.retryable) == ("here", True)
        assert not psutil.pid_exists(ready.pid)
        assert grants.held(KEY.instance_id, KEY.incarnation) is None


@pytest.mark.parametrize(
    ("engine", "spec", "code"),
    [
        (FakeEngine(), make_rpc(), "no_rpc_server"),
        (BundledEngine(), make_rpc(), "no_rpc_server"),
        (
            FakeEngine(),
            make_rpc(DeviceShare(worker="there", device="gpu0", kind=DeviceKind.CUDA, layers=1, claim=0)),
            "no_command_line",
        ),
    ],
)
async def test_what_cannot_be_started(
    open_supervisor: OpenSupervisor, engine: FakeEngine | BundledEngine, spec: RpcServerSpec, code: str
) -> None:
    async with open_supervisor(engine) as supervisor:
        with pytest.raises(ProcessStartError) as refused:
            await supervisor.ensure_started(spec)
        assert refused.value.code == code
        assert refused.value.retryable is (code == "no_rpc_server"), "another worker may have one"
        assert supervisor.statuses() == {}


# --- whose fault an end was -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "code", "stopped", "cause", "worker"),
    [
        ("the link to w3 (10.0.0.3:8411) was lost: nothing heard", 1, False, "the link to w3 (10.0.0.3", "w3"),
        ("the gateway of w2 (10.0.0.2:8411) refuses hold rpc/x.1: no", 1, False, "the gateway of w2", "w2"),
        ("the link to w9 (10.0.0.9:8411) was lost: it ended", 1, False, "the link to w9", ""),  # no peer of it
        ("the link to w3 (10.0.0.3:8411) was lost", 0, True, "stopped by Stoker", ""),
        ("{}", -9, False, "killed from outside (SIGKILL)", ""),
        ("the link to w3 (10.0.0.3:8411) was lost: reset", None, False, "the link to w3", "w3"),  # adopted
    ],
)
def test_a_links_last_line_names_who_was_lost(
    tmp_path: Path, last: str, code: int | None, stopped: bool, cause: str, worker: str
) -> None:
    record = ProcessRecord(key=KEY.model_copy(update={"role": "link"}), port=1, members=("w1", "w2", "w3"))
    end = LinkRole(tmp_path, tmp_path).explain(record, ['{"event": "link_ready"}', last, ""], code, stopped=stopped)
    assert cause in end.cause
    assert end.worker == worker


@pytest.mark.parametrize(
    ("peers", "line", "code", "cause", "worker"),
    [
        ({}, "", -9, "killed from outside (SIGKILL)", ""),  # alone: its workflow knows where
        ({"127.0.0.1:5": "w2"}, "", -9, "killed from outside (SIGKILL)", "w1"),
        (
            {"127.0.0.1:5": "w2"},
            "/src/ggml-rpc.cpp:569: Remote RPC server crashed or returned malformed response",
            -6,
            "Remote RPC server crashed",
            "",
        ),
        (
            {"127.0.0.1:5": "w2", "127.0.0.1:6": "w3"},
            "/src/ggml-rpc.cpp:1: failed to allocate RPC0[127.0.0.1:6] buffer of size 12",
            -6,
            "failed to allocate RPC0[w3] buffer",
            "w3",
        ),
    ],
)
def test_a_main_server_says_which_peer_it_was_where_it_knows(
    peers: dict[str, str], line: str, code: int, cause: str, worker: str
) -> None:
    role = MainServerRole.__new__(MainServerRole)
    members = ("w1", *peers.values()) if peers else ()
    record = ProcessRecord(key=KEY, port=1, members=members, rpc_peers=peers)
    end = role.explain(record, [line], code, stopped=False)
    assert cause in end.cause
    assert end.worker == worker


# --- the link -------------------------------------------------------------------------------------------------


async def test_a_link_is_ready_when_it_has_written_its_ports(
    open_fake: OpenSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "link.py"
    program.write_text(
        "import json, pathlib, socket, sys, time\n"
        "told = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "listeners = [socket.create_server(('127.0.0.1', 0)) for _ in told['peers']]\n"
        "ports = sorted((one.getsockname()[1] for one in listeners), reverse=True)\n"
        "pathlib.Path(told['ready_file']).write_text(json.dumps({'ports': ports}))\n"
        "time.sleep(600)\n"
    )
    key = KEY.model_copy(update={"role": "link"})
    peers = tuple(MeshPeer(worker=f"w{n}", host=f"127.0.0.{n}", port=8411) for n in (2, 3))
    launch = LinkRole.launch

    def faked(self: LinkRole, spec: LinkSpec) -> Launch:
        made = launch(self, spec)
        assert made.command[:4] == [sys.executable, "-P", "-m", "worker_agent.mesh.link"]
        return made._replace(command=[sys.executable, str(program), made.command[-1]])

    monkeypatch.setattr(LinkRole, "launch", faked)
    async with open_fake() as supervisor:
        await supervisor.ensure_started(LinkSpec(key=key, worker="w1", peers=peers))
        ready = await reached(supervisor, ProcessPhase.READY, key)
        assert len(ready.ports) == 2
        assert ready.ports == tuple(sorted(ready.ports, reverse=True)), "in the order of the peers"
        assert ready.port == ready.ports[0]
    async with open_fake() as supervisor:
        adopted = supervisor.statuses()[key]
        assert (adopted.pid, adopted.ports, adopted.adopted) == (ready.pid, ready.ports, True)
        await supervisor.kill(key)
        assert not list((tmp_path / "state" / "links").iterdir())
