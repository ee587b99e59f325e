"""The agent's tests: supervisors over the bundled engine or a fake one, and a check that no engine runs on."""

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from activities.ports import MainServerSpec, ProcessKey, ProcessPhase, ProcessStatus
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.workers import DeviceKind, Engine, EngineKind
from tests.builders import make_spec, write_tiny_llama
from worker_agent.engines import BundledEngine, EngineProgram
from worker_agent.processes import MARK
from worker_agent.supervisor import HostSupervisor

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
KEY = ProcessKey(instance_id="llama-0", incarnation=1)


class FakeEngine:
    """Runs fake_engine.py in place of llama-server."""

    device_names: frozenset[str] = frozenset()

    def describe(self) -> Engine:
        return Engine(kind=EngineKind.NATIVE, version="fake")

    def main_command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-S", str(FAKE_ENGINE), *arguments]

    def rpc_command(self, arguments: Sequence[str]) -> list[str] | None:
        return None


def make_server(model: Path, key: ProcessKey = KEY) -> MainServerSpec:
    """A main server of `model` on this host's CPU: one slot of 2048 tokens, one thread."""
    share = DeviceShare(device="cpu", kind=DeviceKind.CPU, layers=0, claim=0)
    placement = Placement(worker="here", shares=(share,), estimate=MemoryEstimate(context_length=2048, slots=1))
    spec = make_spec(options=EngineOptions(slots=1, threads=1))
    return MainServerSpec(key=key, deployment="llama", spec=spec, placement=placement, model_path=str(model))


def engine_key(key: ProcessKey) -> str:
    """The key that a process of the tests asks for."""
    return f"secret-of-{key.instance_id}-{key.incarnation}"


def bundled_arguments(server: MainServerSpec) -> Sequence[str]:
    """What the agent gives to an engine on loopback."""
    return main_server_arguments(
        server.spec, server.placement, model_path=server.model_path, alias=server.deployment, pooling=server.pooling
    )


OpenSupervisor = Callable[..., AbstractAsyncContextManager[HostSupervisor]]


@pytest.fixture
def open_supervisor(tmp_path: Path) -> OpenSupervisor:
    """Opens a supervisor over this test's state and logs: the same each time, as a restarted agent does."""

    @asynccontextmanager
    async def open_(
        engine: EngineProgram | None = None,
        arguments: Callable[[MainServerSpec], Sequence[str]] = bundled_arguments,
        **options: object,
    ) -> AsyncIterator[HostSupervisor]:
        supervisor = HostSupervisor(
            engine=engine or BundledEngine(),
            state_dir=tmp_path / "state",
            log_dir=tmp_path / "logs",
            host="127.0.0.1",
            arguments=arguments,
            engine_key=engine_key,
            **options,  # type: ignore[arg-type]
        )
        async with supervisor:
            yield supervisor

    return open_


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """The folder that steers the fake engine."""
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "requests").write_text("0")
    return folder


@pytest.fixture
def open_fake(open_supervisor: OpenSupervisor, stage: Path) -> OpenSupervisor:
    """Opens a supervisor over the fake engine; arguments are the fake engine's options."""

    def open_(*options: str, **more: object) -> AbstractAsyncContextManager[HostSupervisor]:
        return open_supervisor(FakeEngine(), lambda _: ["--stage", str(stage), *options], **more)

    return open_


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1 MB that never ends by itself."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


async def reached(supervisor: HostSupervisor, phase: ProcessPhase, key: ProcessKey = KEY) -> ProcessStatus:
    """The status once the process is in `phase`; fails if it ends before."""
    async for status in supervisor.watch(key):
        if status.phase is phase:
            return status
    raise AssertionError(f"{key} ended before it was {phase}: {supervisor.statuses().get(key)}")


def engines_of(folder: Path) -> list[psutil.Process]:
    """The engines (and what they started) of the supervisors whose files lie under `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(f"{folder}{os.sep}"):
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def _no_orphans(tmp_path: Path) -> Iterator[None]:
    """Every engine that a test started must be gone at its end."""
    yield
    left = engines_of(tmp_path)
    for process in left:
        process.kill()
    deadline = time.monotonic() + 10
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.wait(max(0.0, deadline - time.monotonic()))
    assert not left, f"engines outlived the test: {left}"
