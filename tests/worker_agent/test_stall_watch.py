"""Frozen or busy: the decision, and real processes that are stopped in the middle of their work."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from activities.ports import MainServerSpec, ProcessPhase, RpcServerSpec
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.workers import DeviceKind
from tests.worker_agent.conftest import KEY, OpenSupervisor, engine_key, make_server, reached
from worker_agent.engine_choice import open_installed
from worker_agent.engine_metrics import EngineWork
from worker_agent.engine_store import InstalledEngine
from worker_agent.engines import NativeEngine
from worker_agent.stall_watch import Stall, look, verdict

IDLE = EngineWork(processing=0, deferred=0, decodes=10)
TIMEOUT = 60.0


def busy(decodes: int, processing: int = 1) -> EngineWork:
    return EngineWork(processing=processing, deferred=0, decodes=decodes)


def watched(*looks: tuple[float, EngineWork | None]) -> tuple[Stall, list[str]]:
    """What is known after these looks, each so many seconds after the one before, and each verdict that was one."""
    stall, said = Stall(), []
    for seconds, work in looks:
        stall = look(stall, work, seconds)
        if cause := verdict(stall, work, TIMEOUT):
            said.append(cause)
    return stall, said


@pytest.mark.parametrize(
    ("looks", "verdicts"),
    [
        ([(2, IDLE)] * 1000, []),
        ([(2, busy(n)) for n in range(1000)], []),
        ([(2, busy(5))] + [(2, busy(5))] * 30, []),  # 60 s: not yet
        ([(2, busy(5))] + [(2, busy(5))] * 31, ["frozen: 1 request in work and no token for 62 s"]),
        ([(2, busy(5, 3))] + [(2, busy(5, 3))] * 31, ["frozen: 3 requests in work and no token for 62 s"]),
        ([(2, busy(5))] * 30 + [(2, IDLE)] + [(2, busy(5))] * 30, []),  # the request went, and another came
        ([(2, busy(5))] * 30 + [(2, busy(6))] + [(2, busy(6))] * 30, []),
        # What took 50 s once may take 200 s the next time, and no longer.
        ([(2, busy(5))] + [(10, busy(5))] * 4 + [(10, busy(6))] + [(10, busy(6))] * 20, []),
        (
            [(2, busy(5))] + [(10, busy(5))] * 4 + [(10, busy(6))] + [(10, busy(6))] * 21,
            ["frozen: 1 request in work and no token for 210 s"],
        ),
        ([(2, None)] * 30, []),
        ([(2, None)] * 31, ["frozen: no answer to /metrics for 62 s"]),
        ([(2, None)] * 30 + [(2, IDLE)] + [(2, None)] * 30, []),
        # Silence in the middle of work counts as a pause.
        (
            [(2, busy(5))] + [(2, None)] * 29 + [(2, busy(5))] * 2,
            ["frozen: 1 request in work and no token for 62 s"],
        ),
        ([(2, busy(50))] + [(2, busy(50))] * 30 + [(2, busy(3))], []),  # its counter began anew
        ([(2, EngineWork(processing=1, deferred=0))] * 100, []),  # an engine that does not count batches
    ],
)
def test_what_counts_as_frozen(looks: list[tuple[float, EngineWork | None]], verdicts: list[str]) -> None:
    assert watched(*looks)[1] == verdicts


def test_only_a_pause_that_ended_by_itself_makes_patient() -> None:
    stall, _ = watched((2, busy(5)), (30, busy(5)), (2, IDLE))
    assert stall.longest == 0.0, "whoever asked went away: nobody knows how long it would have taken"
    stall, _ = watched((2, busy(5)), (30, busy(5)), (4, busy(6)), (2, busy(7)), (2, IDLE))
    assert stall.longest == 34.0


# --- for real -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def native(native_engine: InstalledEngine) -> NativeEngine:
    """It, as the agent opens it."""
    return open_installed(native_engine)


def arguments(server: MainServerSpec) -> Sequence[str]:
    """As the agent gives them."""
    return main_server_arguments(
        server.spec,
        server.placement,
        model_path=server.model_path,
        alias=server.deployment,
        pooling=server.pooling,
        rpc=[f"127.0.0.1:{port}" for port in server.rpc_ports],
    )


async def ask(port: int, tokens: int) -> httpx.Response:
    """A request that takes as many tokens."""
    headers = {"Authorization": f"Bearer {engine_key(KEY)}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, headers=headers) as client:
        return await client.post("/completion", json={"prompt": "a", "n_predict": tokens, "ignore_eos": True})


@pytest.mark.anyio
async def test_a_main_server_whose_peer_is_frozen_is_ended_and_says_so(
    open_supervisor: OpenSupervisor, native: NativeEngine, tiny_model: Path
) -> None:
    lent = DeviceShare(worker="there", device="cpu", kind=DeviceKind.CPU, layers=2, claim=0)
    estimate = MemoryEstimate(context_length=2048, slots=1)
    placement = Placement(worker="here", shares=(lent,), estimate=estimate)
    rpc = RpcServerSpec(key=KEY.model_copy(update={"role": "rpc"}), placement=placement, worker="there", threads=1)
    async with open_supervisor(native, arguments, stall_timeout=3.0) as supervisor:
        await supervisor.ensure_started(rpc)
        peer = await reached(supervisor, ProcessPhase.READY, rpc.key)
        main = make_server(tiny_model).model_copy(update={"placement": placement, "rpc_ports": (peer.port,)})
        await supervisor.ensure_started(main)
        ready = await reached(supervisor, ProcessPhase.READY)
        assert (await ask(ready.port, 4)).is_success
        os.kill(peer.pid, signal.SIGSTOP)
        asking = asyncio.create_task(ask(ready.port, 8))
        end = await reached(supervisor, ProcessPhase.EXITED)
        assert end.cause.startswith("frozen: 1 request in work and no token for ")
        assert end.cause.endswith("the workers of its group are here, there")
        assert (end.exit_code, end.retryable, end.worker) == (-9, True, "")
        with pytest.raises(httpx.TransportError):
            await asking
        await supervisor.kill(KEY)
        await supervisor.kill(rpc.key)  # a stopped process, too


@pytest.mark.anyio
async def test_a_main_server_that_says_nothing_any_more_is_ended(
    open_supervisor: OpenSupervisor, tiny_model: Path
) -> None:
    async with open_supervisor(stall_timeout=3.0) as supervisor:
        await supervisor.ensure_started(make_server(tiny_model))
        ready = await reached(supervisor, ProcessPhase.READY)
        os.kill(ready.pid, signal.SIGSTOP)
        end = await reached(supervisor, ProcessPhase.EXITED)
        assert end.cause.startswith("frozen: no answer to /metrics for ")
        await supervisor.kill(KEY)
