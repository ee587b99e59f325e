"""`stoker server` as real processes: what its users see while they are replaced, die, or lose their parent."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from entrypoints.server import PortTakenError, _listen
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.cluster import eventually, eventually_async
from tests.e2e.system import free_ports

pytestmark = pytest.mark.anyio

WITHIN_SECONDS = 60.0


class RunningServer:
    """A `stoker server`, and those of its processes that answer."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url

    def children(self) -> set[int]:
        """Its processes, those that are on their way out too."""
        with suppress(psutil.NoSuchProcess):
            return {child.pid for child in psutil.Process(self.process.pid).children()}
        return set()

    async def answers(self) -> bool:
        """Whether a new connection is answered."""
        async with httpx.AsyncClient(trust_env=False, timeout=WITHIN_SECONDS) as client:
            with suppress(httpx.ConnectError):
                return (await client.get(f"{self.url}/livez")).status_code == 200
        return False


@asynccontextmanager
async def server(folder: Path, *arguments: str) -> AsyncIterator[RunningServer]:
    """A server on a database of its own, once it answers."""
    (port,) = free_ports(1)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
    environment = {**kept, "STOKER_DATA_DIR": str(folder), "STOKER_API__PORT": str(port)}
    database = Database(Settings(data_dir=folder).database_url)
    folder.mkdir(exist_ok=True)
    migrate(database)
    database.close()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entrypoints.cli.main", "server", *arguments),
        env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )
    running = RunningServer(process, f"http://127.0.0.1:{port}")
    try:
        await eventually_async(running.answers, "it answers", seconds=WITHIN_SECONDS)
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), WITHIN_SECONDS)


async def test_who_comes_while_a_process_is_dead_waits_for_the_next_one(tmp_path: Path) -> None:
    async with server(tmp_path) as running:
        (before,) = running.children()
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: not psutil.pid_exists(before), running.children)
        assert await running.answers(), "its connection waited in the listener's queue"
        assert before not in running.children()


async def test_one_that_dies_while_it_starts_takes_no_other_with_it(tmp_path: Path) -> None:
    async with server(tmp_path, "--processes", "2") as running:
        await eventually(lambda: len(running.children()) == 2, running.children, seconds=WITHIN_SECONDS)
        first, second = sorted(running.children())
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: not psutil.pid_exists(second), running.children, seconds=WITHIN_SECONDS)
        assert await running.answers()
        await eventually(lambda: len(running.children()) == 2, running.children, seconds=WITHIN_SECONDS)
        assert first in running.children()


async def test_processes_are_replaced_without_an_outage(tmp_path: Path) -> None:
    async with server(tmp_path, "--processes", "2") as running:
        await eventually(lambda: len(running.children()) == 2, running.children, seconds=WITHIN_SECONDS)
        before = running.children()
        host, port = running.url.removeprefix("http://").split(":")
        begun = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
        for _, writer in begun:  # requests that the old processes have, and whose bodies are still to come
            writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{")
            await writer.drain()
        running.process.send_signal(signal.SIGHUP)
        answered, refused = 0, 0
        async with asyncio.timeout(WITHIN_SECONDS):
            while len(running.children() - before) < 2 or answered < 20:
                answered, refused = (answered + 1, refused) if await running.answers() else (answered, refused + 1)
        assert refused == 0
        for reader, writer in begun:
            writer.write(b"}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 401"), "the process that had it has answered it"
            writer.close()
        await eventually(lambda: not running.children() & before, running.children, seconds=WITHIN_SECONDS)
        assert len(running.children()) == 2


async def test_a_process_whose_parent_was_killed_ends(tmp_path: Path) -> None:
    async with server(tmp_path) as running:
        (child,) = running.children()
        process = psutil.Process(child)
        running.process.kill()
        await running.process.wait()
        await eventually(lambda: not process.is_running(), lambda: "it still runs", seconds=WITHIN_SECONDS)


async def test_a_watch_ends_when_its_process_is_to_stop(tmp_path: Path) -> None:
    async with server(tmp_path) as running, httpx.AsyncClient(trust_env=False, timeout=WITHIN_SECONDS) as client:
        key = (tmp_path / "admin-key").read_text().strip()
        url, headers = f"{running.url}/api/v1/workers?watch=true", {"authorization": f"Bearer {key}"}
        async with client.stream("GET", url, headers=headers) as watch:
            assert watch.status_code == 200
            running.process.terminate()
            assert [chunk async for chunk in watch.aiter_bytes()] == []
        assert await asyncio.wait_for(running.process.wait(), WITHIN_SECONDS) == 0


async def test_a_first_process_that_cannot_run_ends_the_server_with_its_code(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environment = {**os.environ, "STOKER_DATA_DIR": str(tmp_path), "STOKER_API__PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entrypoints.cli.main", "server"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), WITHIN_SECONDS)
    assert process.returncode == 2
    assert said.decode().count("the database does not have this version's tables") == 1


async def test_a_port_that_becomes_free_in_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of a parent that was killed hold it a moment longer."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        waiting = asyncio.create_task(_listen("127.0.0.1", port))
        await asyncio.sleep(0)
        assert not waiting.done()
    with await waiting as listener:
        assert listener.getsockname()[1] == port
    monkeypatch.setattr("entrypoints.server.PORT_FREE_WITHIN_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(PortTakenError, match="Choose another: --port"):
        await _listen("127.0.0.1", other.getsockname()[1])
    with pytest.raises(PortTakenError, match=r"cannot listen on 192\.0\.2\.1:"):
        await _listen("192.0.2.1", 0)
