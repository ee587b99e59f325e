"""The supervisor over the real engine: start, serve, watch, drain, kill."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from activities.ports import ProcessKey, ProcessPhase, ProcessStartError, ProcessStatus, ProcessSupervisor
from stoker.domain.placement.types import DeviceShare
from stoker.domain.workers import DeviceKind
from tests.worker_agent.conftest import (
    KEY,
    FakeEngine,
    OpenSupervisor,
    engine_key,
    engines_of,
    make_server,
    reached,
)
from worker_agent.engine_metrics import read_work

pytestmark = pytest.mark.anyio


async def test_starts_serves_with_its_key_only_and_dies_when_killed(
    open_supervisor: OpenSupervisor, smollm2: Path, tmp_path: Path
) -> None:
    async with open_supervisor() as supervisor:
        port: ProcessSupervisor = supervisor
        status = await port.ensure_started(make_server(smollm2))
        assert status.phase is ProcessPhase.STARTING
        assert not status.adopted

        ready = await reached(supervisor, ProcessPhase.READY)
        assert ready.pid == status.pid
        assert ready.progress == 1.0
        assert (await supervisor.ensure_started(make_server(smollm2))) == ready

        body = {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ready.port}", timeout=60) as client:
            refused = await client.post("/v1/chat/completions", json=body)
            assert refused.status_code == 401
            key = {"Authorization": f"Bearer {engine_key(KEY)}"}
            answer = await client.post("/v1/chat/completions", json=body | {"max_tokens": 20}, headers=key)
        assert "Hello" in answer.json()["choices"][0]["message"]["content"]
        assert answer.json()["model"] == "llama"

        await supervisor.kill(KEY)
        assert supervisor.statuses() == {}
        assert engines_of(tmp_path) == []
        assert list((tmp_path / "state" / "processes").iterdir()) == []


async def test_every_watcher_sees_the_whole_life_and_the_end_last(open_fake: OpenSupervisor, stage: Path) -> None:
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(stage))

        async def life() -> list[ProcessStatus]:
            return [status async for status in supervisor.watch(KEY)]

        lives = [asyncio.create_task(life()) for _ in range(3)]
        await reached(supervisor, ProcessPhase.LOADING)
        (stage / "ready").touch()
        await reached(supervisor, ProcessPhase.READY)
        await supervisor.kill(KEY)
        for seen in await asyncio.gather(*lives):
            assert list(dict.fromkeys(status.phase for status in seen)) == [
                ProcessPhase.STARTING,
                ProcessPhase.LOADING,
                ProcessPhase.READY,
                ProcessPhase.EXITED,
            ]
            assert seen[-1].cause == "stopped by Stoker"
            assert seen[-1].exit_code == -signal.SIGTERM


async def test_sees_at_once_that_a_process_was_killed(open_fake: OpenSupervisor, stage: Path) -> None:
    (stage / "ready").touch()
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(stage))
        ready = await reached(supervisor, ProcessPhase.READY)
        os.kill(ready.pid, signal.SIGKILL)
        ended = await reached(supervisor, ProcessPhase.EXITED)
        assert ended.exit_code == -signal.SIGKILL
        assert "SIGKILL" in ended.cause
        assert ended.retryable
        assert await supervisor.ensure_started(make_server(stage)) == ended  # and it is not started again
        await supervisor.kill(KEY)
        assert supervisor.statuses() == {}


async def test_the_end_of_a_process_is_told(open_fake: OpenSupervisor, stage: Path) -> None:
    ended = asyncio.Event()
    async with open_fake(on_end=ended.set) as supervisor:
        await supervisor.ensure_started(make_server(stage))
        await reached(supervisor, ProcessPhase.LOADING)
        assert not ended.is_set()
        await supervisor.kill(KEY)
        assert ended.is_set()


@pytest.fixture
def bad_models(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder of files that are no model."""
    (tmp_path / "text.gguf").write_bytes(b"this is no model")
    (tmp_path / "truncated.gguf").write_bytes(tiny_model.read_bytes()[:-1000])
    return tmp_path


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ("missing.gguf", "No such file"),
        ("text.gguf", "invalid magic characters"),
        ("truncated.gguf", "not within the file bounds"),
    ],
)
async def test_a_bad_model_is_not_worth_another_start(
    open_supervisor: OpenSupervisor, bad_models: Path, model: str, cause: str
) -> None:
    async with open_supervisor() as supervisor:
        await supervisor.ensure_started(make_server(bad_models / model))
        ended = await reached(supervisor, ProcessPhase.EXITED)
        assert ended.exit_code == 1
        assert cause in ended.cause
        assert not ended.retryable


async def test_an_option_the_engine_refuses_is_not_worth_another_start(
    open_supervisor: OpenSupervisor, tiny_model: Path
) -> None:
    async with open_supervisor(arguments=lambda _: ["--nope"]) as supervisor:
        await supervisor.ensure_started(make_server(tiny_model))
        ended = await reached(supervisor, ProcessPhase.EXITED)
        assert ended.cause == "error: invalid argument: --nope"
        assert not ended.retryable


async def test_a_missing_engine_is_said_at_once_and_may_come_back(
    open_supervisor: OpenSupervisor, tiny_model: Path, tmp_path: Path
) -> None:
    class Gone(FakeEngine):
        def main_command(self, arguments: object) -> list[str]:
            return [str(tmp_path / "no-such-program")]

    async with open_supervisor(Gone()) as supervisor:
        with pytest.raises(ProcessStartError, match="no-such-program: No such file") as raised:
            await supervisor.ensure_started(make_server(tiny_model))
        assert raised.value.code == "engine_not_runnable"
        assert raised.value.retryable
        assert supervisor.statuses() == {}
        assert list((tmp_path / "state" / "processes").iterdir()) == []


async def test_a_placement_that_no_command_line_can_say_is_refused(
    open_supervisor: OpenSupervisor, tiny_model: Path
) -> None:
    server = make_server(tiny_model)
    share = DeviceShare(device="gpu0", kind=DeviceKind.CUDA, layers=3, claim=0)  # without the engine's name for it
    server = server.model_copy(update={"placement": server.placement.model_copy(update={"shares": (share,)})})
    async with open_supervisor() as supervisor:
        with pytest.raises(ProcessStartError, match="engine_name") as raised:
            await supervisor.ensure_started(server)
        assert not raised.value.retryable
        assert supervisor.statuses() == {}


async def test_a_key_that_would_lead_out_of_the_folder_is_refused(open_fake: OpenSupervisor, stage: Path) -> None:
    async with open_fake() as supervisor:
        for bad in ("../x", "a/b", "a.b", "", "A"):
            with pytest.raises(ValueError, match="names no process"):
                await supervisor.ensure_started(make_server(stage, ProcessKey(instance_id=bad, incarnation=1)))


async def test_kill_takes_the_whole_group_and_insists(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    (stage / "ready").touch()
    async with open_fake("--stubborn", "--with-child", stop_seconds=(0.2, 0.2, 30.0)) as supervisor:
        await supervisor.ensure_started(make_server(stage))
        ready = await reached(supervisor, ProcessPhase.READY)
        assert {process.pid for process in engines_of(tmp_path)} == {ready.pid, int((stage / "child").read_text())}
        await asyncio.gather(supervisor.kill(KEY), supervisor.kill(KEY))
        assert engines_of(tmp_path) == []


async def test_kill_goes_on_when_its_caller_is_cancelled(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    async with open_fake("--stubborn", stop_seconds=(0.3, 0.3, 30.0)) as supervisor:
        await supervisor.ensure_started(make_server(stage))
        await reached(supervisor, ProcessPhase.LOADING)
        killing = asyncio.create_task(supervisor.kill(KEY))
        await asyncio.sleep(0)  # it has begun
        killing.cancel()
        async with asyncio.timeout(60):
            ended = await reached(supervisor, ProcessPhase.EXITED)
        assert ended.exit_code == -signal.SIGKILL
        assert engines_of(tmp_path) == []


async def test_kill_of_an_unknown_process_is_fine(open_fake: OpenSupervisor) -> None:
    async with open_fake() as supervisor:
        await supervisor.kill(KEY)
        seen = [status async for status in supervisor.watch(KEY)]
        assert [status.phase for status in seen] == [ProcessPhase.EXITED]


async def test_kill_ends_a_process_that_never_listens(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    async with open_fake("--deaf") as supervisor:
        status = await supervisor.ensure_started(make_server(stage))
        assert status.phase is ProcessPhase.STARTING
        await supervisor.kill(KEY)
        assert engines_of(tmp_path) == []


async def test_drain_waits_for_requests_in_work(open_fake: OpenSupervisor, stage: Path) -> None:
    (stage / "ready").touch()
    (stage / "requests").write_text("2")
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(stage))
        await reached(supervisor, ProcessPhase.READY)
        assert not await supervisor.drain(KEY, settle_seconds=0.0, timeout_seconds=0.3)
        draining = asyncio.create_task(supervisor.drain(KEY, settle_seconds=0.0, timeout_seconds=60))
        (stage / "requests").write_text("0")
        assert await draining
        (stage / "requests").write_text("2")
        draining = asyncio.create_task(supervisor.drain(KEY, settle_seconds=60, timeout_seconds=60))
        await supervisor.kill(KEY)
        assert await draining  # what has ended has nothing in work
        assert await supervisor.drain(KEY, settle_seconds=60, timeout_seconds=60)


async def test_drain_of_the_real_engine_lets_an_answer_finish(
    open_supervisor: OpenSupervisor, tiny_model: Path
) -> None:
    async with open_supervisor() as supervisor:
        await supervisor.ensure_started(make_server(tiny_model))
        ready = await reached(supervisor, ProcessPhase.READY)
        key = {"Authorization": f"Bearer {engine_key(KEY)}"}
        body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 1500, "stream": True}
        pieces, last = 0, ""
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ready.port}", timeout=60, headers=key) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            assert read_work((await client.get("/metrics")).text).processing == 1
            draining = asyncio.create_task(supervisor.drain(KEY, settle_seconds=0.0, timeout_seconds=60))
            async for line in lines:
                pieces += line.startswith("data: {")
                last = line or last
        assert last == "data: [DONE]"
        assert pieces >= 1500
        assert await draining
        await supervisor.kill(KEY)


async def test_reap_kills_what_is_no_longer_ours(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    kept, lost, young = (ProcessKey(instance_id=name, incarnation=1) for name in ("kept", "lost", "young"))
    async with open_fake() as supervisor:
        for key in (kept, lost, young):
            await supervisor.ensure_started(make_server(stage, key))
        assert await supervisor.reap({kept}, among={kept, lost}) == (lost,)
        assert set(supervisor.statuses()) == {kept, young}
        assert set(await supervisor.reap(set())) == {kept, young}
        assert supervisor.statuses() == {}
        assert engines_of(tmp_path) == []
