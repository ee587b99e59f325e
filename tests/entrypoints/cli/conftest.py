"""The program against a stand-in for the API: inside this process (`stoker`), or as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from entrypoints.cli.main import app
from tests.fakes.api import FakeApi

Stoker = Callable[..., Result]
StokerProcess = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = [sys.executable, "-m", "entrypoints.cli.main"]
ENDS_WITHIN_SECONDS = 60


@pytest.fixture(scope="session")
def running_api() -> Iterator[FakeApi]:
    """A server for all tests."""
    with FakeApi().running() as running:
        yield running


@pytest.fixture
def api(running_api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """A server that is told what to show; watches look at it a hundred times a second."""
    monkeypatch.setattr("api.watch.LOOK_EVERY_SECONDS", 0.01)
    running_api.reset()
    return running_api


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Processes inherit an ignored SIGINT, which is what tests that run in the background have: not these."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where a process finds nothing of the developer's own: no settings, no key, no colours of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STOKER_", "XDG_"))}
    kept |= {"HOME": str(tmp_path), "STOKER_DATA_DIR": str(tmp_path / "data"), "TERM": "xterm-256color"}
    return kept


@pytest.fixture
def stoker(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stoker:
    """Runs `stoker ARGUMENTS…` in this process, against `api` and with its admin key."""
    monkeypatch.setenv("STOKER_SERVER", api.url)
    monkeypatch.setenv("STOKER_API_KEY", api.admin_key)
    monkeypatch.setenv("STOKER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)

    return run


@pytest.fixture
def stoker_process(environment: dict[str, str]) -> StokerProcess:
    """Runs `stoker ARGUMENTS…` as a process, without a server or a key. `env` comes on top of the environment."""

    def run(*arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments],
            env=environment | (env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_SECONDS,
        )

    return run
