"""The parts of `stoker up`: what it refuses before it starts anything, and how it keeps processes alive.

That all of it together works is shown in tests/e2e.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import structlog

from entrypoints import up
from entrypoints.folder_lock import locked
from entrypoints.up import CannotStartError, _Children, _environment, running_system
from stoker.settings import Settings
from tests.cluster import eventually
from tests.e2e import system
from tests.e2e.system import free_ports

pytestmark = pytest.mark.anyio

SECRETS = ("s" * 40, "the-join-token")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """On free ports, with secrets of its own."""
    api, temporal, ui = free_ports(3)
    return Settings(
        data_dir=tmp_path / "data",
        secret=SECRETS[0],
        api={"port": api},
        temporal={"port": temporal, "ui_port": ui},
        worker={"join_token": SECRETS[1], "name": "box", "offer": ("cpu=2GiB",), "labels": {"zone": "a"}},
    )


async def refused(settings: Settings) -> str:
    """Why the system does not start."""
    with pytest.raises(CannotStartError) as error:
        async with running_system(settings, asyncio.Event()):
            raise AssertionError("it started")
    return str(error.value)


# --- before anything is started ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "advice"),
    [
        ("api", "Choose another for the API: --port, STOKER_API__PORT"),
        ("temporal", "Choose another for Temporal: --temporal-port, or use the one there with TEMPORAL_ADDRESS"),
        ("ui", "Choose another for Temporal's UI: --temporal-ui-port"),
    ],
)
async def test_a_port_that_is_taken_is_named_with_its_flag(settings: Settings, which: str, advice: str) -> None:
    port = {"api": settings.api.port, "temporal": settings.temporal.port, "ui": settings.temporal.ui_port}[which]
    with socket.create_server(("127.0.0.1", port)):
        message = await refused(settings)
    assert message == f"port {port} on 127.0.0.1 is not free (Address already in use). {advice}"
    assert not (settings.data_dir / "logs").exists(), "nothing was started"


async def test_a_folder_that_is_in_use_names_who_uses_it(settings: Settings) -> None:
    with locked(settings.data_dir):
        message = await refused(settings)
    assert f"another `stoker up` runs on this data folder (process {os.getpid()} holds {settings.data_dir})" in message
    assert "--data-dir" in message
    assert [path.name for path in settings.data_dir.iterdir()] == ["lock"]


async def test_a_secret_that_is_too_short(settings: Settings) -> None:
    short = settings.model_copy(update={"secret": Settings(secret="short").secret})
    assert "at least 32 characters" in await refused(short)


async def test_a_cluster_that_does_not_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "TEMPORAL_WITHIN_SECONDS", 0.1)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    message = await refused(settings)
    assert "Temporal does not answer at 127.0.0.1:1" in message
    assert "Check TEMPORAL_ADDRESS, or unset it to run the built-in server" in message


# --- what the processes are told --------------------------------------------------------------------------------------


def test_the_processes_have_our_settings_and_no_secrets(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = _environment(settings, own_temporal=True)
    assert not any(secret in value for secret in SECRETS for value in environment.values())
    monkeypatch.setenv("STOKER_CONFIG", "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    theirs = Settings()
    ours = settings.model_copy(update={"secret": theirs.secret})
    assert theirs.temporal.address == f"127.0.0.1:{settings.temporal.port}"
    assert theirs.temporal.ui_url == f"http://127.0.0.1:{settings.temporal.ui_port}", "pages link to it"
    assert theirs.worker.stop_processes_on_exit, "engines must not outlive `stoker up`"
    for table, changed in (("api", set()), ("temporal", {"address", "ui_url"}), ("database", set())):
        assert getattr(theirs, table).model_dump(exclude=changed) == getattr(ours, table).model_dump(exclude=changed)
    left_out = {"join_token", "stop_processes_on_exit"}
    assert theirs.worker.model_dump(exclude=left_out) == ours.worker.model_dump(exclude=left_out)
    assert (theirs.data_dir, theirs.log_level) == (ours.data_dir, ours.log_level)


def test_another_cluster_is_left_to_its_own_variables(settings: Settings) -> None:
    assert "STOKER_TEMPORAL__ADDRESS" not in _environment(settings, own_temporal=False)
    named = settings.model_copy(update={"temporal": settings.temporal.model_copy(update={"address": "10.0.0.1:7233"})})
    assert _environment(named, own_temporal=False)["STOKER_TEMPORAL__ADDRESS"] == "10.0.0.1:7233"


# --- keeping them alive -----------------------------------------------------------------------------------------------

SLEEPER = [sys.executable, "-S", "-c", "import time\nprint('up', flush=True)\ntime.sleep(600)"]


class Kept:
    """Processes that are kept alive, for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: dict[str, int] = {}
        self.failed = asyncio.Event()
        self.children = _Children(folder, self.pids, self.failed)

    @asynccontextmanager
    async def running(self, *command: str, name: str = "one") -> AsyncIterator[int]:
        """One of them, once it has written its first line; its pid."""
        async with self.children.running(name, command or SLEEPER, {"MARK": "of the test"}):
            pid = self.pids[name]
            await asyncio.sleep(0)  # lets its keeper begin
            await self.said(name, "up", 1)
            yield pid

    async def said(self, name: str, word: str, times: int) -> None:
        """Waits until its log holds a word that often."""
        log = self.folder / "logs" / f"{name}.log"
        await eventually(lambda: log.read_text().count(word) >= times, log.read_text, seconds=30)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """None yet. None may be left."""
    made = Kept(tmp_path)
    yield made
    assert made.pids == {}


async def test_a_process_has_its_log_its_session_and_its_environment(kept: Kept) -> None:
    async with kept.running() as pid:
        process = psutil.Process(pid)
        assert os.getsid(pid) == pid, "Ctrl-C on the terminal does not reach it"
        assert process.environ()["MARK"] == "of the test"
        assert json.loads((kept.folder / "processes.json").read_text()) == {"one": pid}
    assert not psutil.pid_exists(pid)


async def test_a_process_that_dies_is_started_again(kept: Kept) -> None:
    async with kept.running() as pid:
        with structlog.testing.capture_logs() as logged:
            os.kill(pid, signal.SIGKILL)
            await kept.said("one", "up", 2)
        assert kept.pids["one"] != pid
        assert [(entry["event"], entry["exit_code"]) for entry in logged] == [("process_died", -9)]
        assert not kept.failed.is_set()
        last = kept.pids["one"]
    assert not psutil.pid_exists(last)


async def test_one_that_cannot_run_as_it_was_told_is_not_and_its_last_words_are_kept(kept: Kept) -> None:
    program = "print('up', flush=True)\nprint('error: the port is taken')\nraise SystemExit(2)"
    async with kept.running(sys.executable, "-S", "-c", program):
        async with asyncio.timeout(30):
            await kept.failed.wait()
        assert "the process one cannot run:\nup\nerror: the port is taken\n" in kept.children.last_words()
        assert str(kept.folder / "logs" / "one.log") in kept.children.last_words()
    assert (kept.folder / "logs" / "one.log").read_text().count("up") == 1


async def test_one_that_does_not_stop_is_killed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "STOP_WITHIN_SECONDS", 0.1)
    program = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
    with structlog.testing.capture_logs() as logged:
        async with kept.running(sys.executable, "-S", "-c", program) as pid:
            pass
    assert not psutil.pid_exists(pid)
    assert [entry["event"] for entry in logged] == ["process_does_not_stop"]


async def test_a_log_that_has_grown_is_put_aside_and_goes_on(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "KEEP_LOG_BYTES", 10)
    monkeypatch.setattr(up, "ROTATE_EVERY_SECONDS", 0.01)
    log = kept.folder / "logs" / "one.log"
    log.write_text("from long ago\n")
    program = "import time\nwhile True: print('line', flush=True); time.sleep(0.005)"
    async with kept.children.running("one", [sys.executable, "-S", "-c", program], {}):
        await eventually(log.with_name("one.log.2").exists, lambda: list(log.parent.iterdir()))
        assert not kept.failed.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells processes of their parent's death")
def test_processes_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from entrypoints.up import _Children
async def main():
    children = _Children(Path({str(tmp_path)!r}), {{}}, asyncio.Event())
    async with children.running("one", {SLEEPER!r}, {{}}):
        print(children._pids["one"], flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    system.eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, child.as_dict)
