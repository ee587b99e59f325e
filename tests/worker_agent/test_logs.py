"""Logs: turned over, read back across the parts, followed, pruned."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from activities.ports import ProcessKey, ProcessPhase
from tests.worker_agent.conftest import KEY, OpenSupervisor, make_server, reached
from worker_agent.logs import KEEP_SECONDS, EngineLogs, head, tail


@pytest.fixture
def logs(tmp_path: Path) -> EngineLogs:
    return EngineLogs(tmp_path / "logs", rotate_bytes=100)


def write(logs: EngineLogs, key: ProcessKey, text: str) -> Path:
    """Appends to the log of `key`."""
    path = logs.path(key)
    with path.open("a") as file:
        file.write(text)
    return path


def incarnation(number: int, name: str = "llama-0", role: str = "main") -> ProcessKey:
    """A process of an instance."""
    return ProcessKey(instance_id=name, incarnation=number, role=role)


def test_a_log_turns_over_past_its_size_and_three_parts_are_kept(logs: EngineLogs) -> None:
    for part in "abcde":
        path = write(logs, KEY, f"{part}\n" * 60)
        assert logs.rotate(path)
        assert not logs.rotate(path)
    write(logs, KEY, "last\n")
    assert sorted(file.name for file in logs.folder.iterdir()) == [
        "llama-0.1.main.log",
        "llama-0.1.main.log.1",
        "llama-0.1.main.log.2",
    ]
    assert logs.read(path, 1000) == ["d"] * 60 + ["e"] * 60 + ["last"]
    assert logs.read(path, 62) == ["d"] + ["e"] * 60 + ["last"]
    assert logs.read(path, 1) == ["last"]
    assert logs.read(path, 0) == []


def test_a_process_goes_on_in_the_emptied_file(logs: EngineLogs) -> None:
    path = logs.path(KEY)
    code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\nprint('end')"
    with path.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output, text=True)
    assert process.stdin is not None
    process.stdin.write("x" * 200 + "\n")
    process.stdin.flush()
    while path.stat().st_size < 201:  # until it was written: the process ends, or pytest's own limit does
        assert process.poll() is None
    assert logs.rotate(path)
    process.communicate("after\n", timeout=30)
    assert path.read_bytes() == b"after\nend\n"  # no hole at the beginning
    assert logs.read(path, 3) == ["x" * 200, "after", "end"]


def test_a_missing_log_does_not_turn_over(logs: EngineLogs) -> None:
    assert not logs.rotate(logs.path(KEY))


def test_old_incarnations_go_but_not_those_that_run(logs: EngineLogs) -> None:
    for number in range(1, 10):
        write(logs, incarnation(number), "x" * 200)
        logs.rotate(logs.path(incarnation(number)))
    write(logs, incarnation(9, role="rpc"), "")
    write(logs, incarnation(1, "other"), "")
    logs.prune(keep=[incarnation(2)])
    assert set(logs.keys()) == {
        *(incarnation(number) for number in (2, 5, 6, 7, 8, 9)),
        incarnation(9, role="rpc"),
        incarnation(1, "other"),
    }
    assert not (logs.folder / "llama-0.1.main.log.1").exists()
    assert (logs.folder / "llama-0.2.main.log.1").exists()


def test_logs_that_nobody_writes_to_go_after_two_weeks(logs: EngineLogs) -> None:
    for number in (1, 2, 3):
        path = write(logs, incarnation(number), "")
        if number < 3:
            long_ago = path.stat().st_mtime - KEEP_SECONDS - 60
            os.utime(path, (long_ago, long_ago))
    logs.prune(keep=[incarnation(1)])
    assert set(logs.keys()) == {incarnation(1), incarnation(3)}


def test_the_newest_incarnation_is_the_default(logs: EngineLogs) -> None:
    for number in (2, 10, 9):
        write(logs, incarnation(number), "")
    assert logs.find("llama-0", None, "main") == logs.path(incarnation(10))
    assert logs.find("llama-0", 2, "main") == logs.path(incarnation(2))
    with pytest.raises(LookupError, match=r"incarnation 3 of instance 'llama-0' .* with one: 10, 9, 2"):
        logs.find("llama-0", 3, "main")
    with pytest.raises(LookupError, match="none"):
        logs.find("../../etc", None, "main")


def test_lines_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe\r\nb\nc")
    assert head(tmp_path / "log", 1) == ["\ufffd\ufffd"]
    assert tail(tmp_path / "log", 2) == ["b", "c"]


@pytest.mark.anyio
async def test_following_sees_every_line_once_across_a_turn_over(logs: EngineLogs) -> None:
    path = write(logs, KEY, "".join(f"old {number}\n" for number in range(30)))
    logs.rotate(path)
    write(logs, KEY, "one\ntwo\nthr")
    over = asyncio.Event()
    lines = logs.follow(path, 4, over.is_set)
    assert [await _next(lines) for _ in range(4)] == ["old 28", "old 29", "one", "two"]
    write(logs, KEY, "ee\n" + "four\n" * 30)
    assert [await _next(lines) for _ in range(31)] == ["three"] + ["four"] * 30
    logs.rotate(path)
    write(logs, KEY, "five\nsi")
    assert await _next(lines) == "five"
    write(logs, KEY, "x")
    over.set()
    assert [line async for line in lines] == ["six"]


@pytest.mark.anyio
async def test_a_supervisor_reads_and_follows_its_engines_logs(
    open_fake: OpenSupervisor, stage: Path, tmp_path: Path
) -> None:
    (stage / "ready").touch()
    async with open_fake(rotate_bytes=1000) as supervisor:
        await supervisor.ensure_started(make_server(stage))
        await reached(supervisor, ProcessPhase.READY)
        command, listens = await supervisor.read_log("llama-0", None, 10)
        assert "fake_engine.py" in command
        lines = supervisor.follow_log("llama-0", 1, 10)
        assert [await _next(lines), await _next(lines)] == [command, listens]
        with (tmp_path / "logs" / "llama-0.1.main.log").open("a") as log_file:
            log_file.write("more\n")
        assert await _next(lines) == "more"
        await supervisor.kill(KEY)
        assert [line async for line in lines] == []
        assert await supervisor.read_log("llama-0", 1, 1) == ["more"]
        with pytest.raises(LookupError):
            await supervisor.read_log("llama-1", None, 10)


@pytest.mark.anyio
async def test_a_supervisor_turns_its_engines_logs_over(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(stage))
    with (tmp_path / "logs" / "llama-0.1.main.log").open("a") as log_file:
        log_file.write("x" * 2000)
    async with open_fake(rotate_bytes=1000) as supervisor:  # looks at them when it starts, and then now and then
        async with asyncio.timeout(30):
            while not (tmp_path / "logs" / "llama-0.1.main.log.1").exists():  # noqa: ASYNC110 - a file appears
                await asyncio.sleep(0.01)
        await supervisor.kill(KEY)


async def _next(lines: AsyncGenerator[str, None]) -> str:
    async with asyncio.timeout(30):
        return await anext(lines)
