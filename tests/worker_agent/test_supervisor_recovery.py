"""What a supervisor makes of what an earlier one left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from activities.ports import ProcessPhase, ProcessStatus
from tests.worker_agent.conftest import KEY, OpenSupervisor, engine_key, engines_of, make_server, reached

pytestmark = pytest.mark.anyio

AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
from activities.ports import ProcessPhase
from tests.worker_agent.conftest import KEY, FakeEngine, engine_key, make_server, reached
from worker_agent.supervisor import HostSupervisor

async def main(folder: Path, phase: str) -> None:
    stage = folder / "stage"
    supervisor = HostSupervisor(
        engine=FakeEngine(), state_dir=folder / "state", log_dir=folder / "logs", host="127.0.0.1",
        arguments=lambda _: ["--stage", str(stage)], engine_key=engine_key,
    )
    async with supervisor:
        await supervisor.ensure_started(make_server(stage))
        await reached(supervisor, ProcessPhase(phase))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def run_agent_until_killed(folder: Path, phase: ProcessPhase) -> psutil.Process:
    """Runs an agent of its own, which starts the engine and is killed with SIGKILL in `phase`; returns the engine."""
    command = [sys.executable, "-c", AGENT, str(folder), phase.value]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (engine,) = engines_of(folder)
    return engine


def state_file(folder: Path) -> Path:
    """The engine's record."""
    return folder / "state" / "processes" / "llama-0.1.main.json"


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    yield process
    process.communicate(b"\n", timeout=30)
    assert process.returncode == 0, "a process that is none of ours was ended"


async def test_another_supervisor_adopts_the_real_engine(open_supervisor: OpenSupervisor, tiny_model: Path) -> None:
    async with open_supervisor() as first:
        await first.ensure_started(make_server(tiny_model))
        ready = await reached(first, ProcessPhase.READY)
    async with open_supervisor() as second:
        assert second.statuses() == {KEY: ready.model_copy(update={"adopted": True})}
        adopted = await second.ensure_started(make_server(tiny_model))
        assert (adopted.phase, adopted.pid, adopted.port) == (ProcessPhase.READY, ready.pid, ready.port)
        key = {"Authorization": f"Bearer {engine_key(KEY)}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ready.port}", timeout=60, headers=key) as client:
            answer = await client.post("/completion", json={"prompt": "a", "n_predict": 3})
        assert answer.json()["tokens_predicted"] == 3
        await second.kill(KEY)


async def test_an_engine_outlives_its_killed_agent_and_is_adopted(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    (stage / "ready").touch()
    engine = run_agent_until_killed(tmp_path, ProcessPhase.READY)
    async with open_fake() as supervisor:
        adopted = await supervisor.ensure_started(make_server(stage))
        assert adopted.adopted
        assert (adopted.phase, adopted.pid) == (ProcessPhase.READY, engine.pid)
        os.kill(engine.pid, signal.SIGKILL)
        ended = await reached(supervisor, ProcessPhase.EXITED)  # another's child: its code is not ours to know
        assert ended.exit_code is None
        assert ended.retryable


async def test_an_adopted_engine_goes_on_to_ready_and_can_be_killed(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    engine = run_agent_until_killed(tmp_path, ProcessPhase.LOADING)
    async with open_fake() as supervisor:
        (stage / "ready").touch()
        ready = await reached(supervisor, ProcessPhase.READY)
        assert (ready.pid, ready.adopted) == (engine.pid, True)
        await supervisor.kill(KEY)
        assert engines_of(tmp_path) == []
        assert not state_file(tmp_path).exists()


async def test_what_ended_while_no_agent_was_there_is_exited_and_not_started_again(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    (stage / "ready").touch()
    engine = run_agent_until_killed(tmp_path, ProcessPhase.READY)
    engine.kill()
    engine.wait(30)
    for _ in range(2):  # also when asked by a third agent
        async with open_fake() as supervisor:
            status = await supervisor.ensure_started(make_server(stage))
            assert status.phase is ProcessPhase.EXITED
            assert "no agent watched it" in status.cause
            assert [seen async for seen in supervisor.watch(KEY)] == [status]
            assert engines_of(tmp_path) == []
    async with open_fake() as supervisor:
        await supervisor.kill(KEY)
        assert not state_file(tmp_path).exists()


@pytest.mark.parametrize("content", ["", "{", '{"key": 1}', '{"key":{"instance_id":"other","incarnation":1},"pid":1}'])
async def test_a_damaged_state_file_does_not_lose_a_living_engine(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path, content: str
) -> None:
    (stage / "ready").touch()
    pid = await _start(open_fake, stage)
    _write(state_file(tmp_path), content)
    async with open_fake() as supervisor:
        assert (await reached(supervisor, ProcessPhase.READY)).pid == pid
        await supervisor.kill(KEY)


async def test_a_damaged_state_file_without_an_engine_is_exited(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    async with open_fake():
        _write(state_file(tmp_path), "not JSON")
    async with open_fake() as supervisor:
        status = await supervisor.ensure_started(make_server(stage))
        assert status.phase is ProcessPhase.EXITED
        assert "damaged" in status.cause
        assert status.retryable
        assert engines_of(tmp_path) == []


async def test_a_start_that_was_cut_short_is_found_or_done_again(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    pid = await _start(open_fake, stage)
    _forget_pid(state_file(tmp_path))  # as if the agent had died between the start and its record
    async with open_fake() as supervisor:
        assert (await supervisor.ensure_started(make_server(stage))).pid == pid
        await supervisor.kill(KEY)
    await _start(open_fake, stage)
    record = state_file(tmp_path).read_bytes()
    async with open_fake() as supervisor:
        await supervisor.kill(KEY)
    state_file(tmp_path).write_bytes(record)
    _forget_pid(state_file(tmp_path))  # as if it had died before the start
    async with open_fake() as supervisor:
        again = await supervisor.ensure_started(make_server(stage))
        assert again.phase is ProcessPhase.STARTING
        assert again.pid not in (0, pid)
        await supervisor.kill(KEY)


async def test_a_reused_pid_is_not_taken_for_the_engine(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    await _start(open_fake, stage)
    record = json.loads(state_file(tmp_path).read_text())
    async with open_fake() as supervisor:
        await supervisor.kill(KEY)
    _write(state_file(tmp_path), json.dumps(record | {"pid": bystander.pid}))  # its birth is the engine's
    async with open_fake() as supervisor:
        status = await supervisor.ensure_started(make_server(stage))
        assert status.phase is ProcessPhase.EXITED
        await supervisor.kill(KEY)  # must not touch the bystander, see the fixture
        assert supervisor.statuses() == {}


async def test_reap_after_a_restart_kills_what_was_adopted(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    run_agent_until_killed(tmp_path, ProcessPhase.LOADING)
    async with open_fake() as supervisor:
        assert await supervisor.reap(set()) == (KEY,)
        assert engines_of(tmp_path) == []


async def test_nothing_readable_holds_the_key(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    (stage / "ready").touch()
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(stage))
        ready = await reached(supervisor, ProcessPhase.READY)
        assert engine_key(KEY) in psutil.Process(ready.pid).environ()["LLAMA_API_KEY"]
        assert engine_key(KEY) not in " ".join(psutil.Process(ready.pid).cmdline())
        written = [*(tmp_path / "state").rglob("*.json"), *(tmp_path / "logs").iterdir()]
        assert len(written) == 3  # its record, its log, and what the gateway lets others reach
        for file in written:
            assert engine_key(KEY) not in file.read_text()
            assert file.stat().st_mode & 0o777 == 0o600
        await supervisor.kill(KEY)


async def _start(open_fake: OpenSupervisor, stage: Path) -> int:
    """Starts an engine, and lets go of it; returns its pid."""
    async with open_fake() as supervisor:
        status: ProcessStatus = await supervisor.ensure_started(make_server(stage))
        return status.pid


def _forget_pid(file: Path) -> None:
    record = json.loads(file.read_text())
    _write(file, json.dumps(record | {"pid": 0, "birth": "", "port": 0}))


def _write(file: Path, text: str) -> None:
    file.write_text(text)
