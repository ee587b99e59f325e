"""`stoker up | server | control-plane | worker | migrate`: as processes, up to where they would serve."""

import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from entrypoints.folder_lock import FolderInUseError
from entrypoints.placement_metrics import MetricsPortError
from entrypoints.server import PortTakenError
from entrypoints.up import CannotStartError
from stoker.settings import Settings
from stoker.temporal import TemporalUnreachableError
from tests.entrypoints.cli.conftest import ENDS_WITHIN_SECONDS, PROGRAM, Stoker, StokerProcess
from worker_agent.control_api import JoinRefusedError
from worker_agent.engine_programs import EngineError

Refused = Callable[..., list[str]]


@pytest.fixture
def taken_port() -> Iterator[str]:
    """A port that somebody else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield str(listener.getsockname()[1])


@pytest.fixture
def free_port() -> str:
    """A port that nobody listened on a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return str(listener.getsockname()[1])


@pytest.fixture
def refused(stoker_process: StokerProcess) -> Refused:
    """Runs a process that cannot run as it is told; the lines of its refusal."""

    def run(*arguments: str, **env: str) -> list[str]:
        done = stoker_process(*arguments, env=env)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        return [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]

    return run


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("server", "--port", "99999"), "--port=99999: Input should be less than or equal to 65535"),
        (("up", "--worker-name", "Box 1"), "--worker-name=Box 1: 'Box 1' is no worker name: lower-case"),
        (("worker", "--name", "Box 1"), "--name=Box 1: 'Box 1' is no worker name: lower-case"),
        (("worker", "--offer", "cpu=lots"), "--offer 'cpu=lots': 'lots' is not a size: write it like 2GiB"),
        (("worker", "--offer", "tpu=2GiB"), "--offer tpu=…: 'tpu' is no device: write cpu, gpu0, gpu1 …"),
        (("up", "--reserve", "disk=2GiB"), "--reserve disk=…: 'disk' cannot be reserved: write ram or vram"),
        (("worker", "--label", "lab"), "--label 'lab': write KEY=VALUE, like zone=lab"),
        (
            ("worker", "--model-dir", "/no/such"),
            "--model-dir '/no/such': there is no such folder",
        ),
        (
            ("worker", "--llama-server", "/no/llama-server"),
            "engine /no/llama-server: must be the absolute path of an exe",
        ),
        (("control-plane", "--log-level", "loud"), "--log-level=loud: String should match pattern"),
        (("migrate", "--data-dir", "/dev/null/x"), "the data folder /dev/null/x cannot be made: Not a directory"),
    ],
)
def test_bad_settings_are_exit_code_2(arguments: tuple[str, ...], error: str, refused: Refused) -> None:
    assert refused(*arguments)[0].startswith(f"error: {error}")


@pytest.mark.parametrize("command", ["server", "up"])
def test_a_port_that_is_taken(command: str, taken_port: str, refused: Refused) -> None:
    (error,) = refused(command, "--port", taken_port)
    assert taken_port in error
    assert "--port, STOKER_API__PORT" in error


def test_a_second_system_on_the_same_folder(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (error,) = refused("up")
    assert "another `stoker up`" in error
    assert "choose another --data-dir" in error


@pytest.mark.parametrize("url", ["mysql://user:pass1234@host/db", "pass1234"])
def test_a_database_that_is_none_is_not_repeated(url: str, refused: Refused, stoker_process: StokerProcess) -> None:
    (error,) = refused("server", STOKER_DATABASE__URL=url)
    assert "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME" in error
    assert "pass1234" not in error


def test_a_secret_that_is_too_short_is_not_repeated(refused: Refused) -> None:
    (error,) = refused("server", STOKER_SECRET="short1234")
    assert error.startswith("error: STOKER_SECRET: the server's secret must be at least 32 characters")
    assert "short1234" not in error


@pytest.mark.parametrize("command", ["up", "server", "control-plane", "worker"])
def test_traces_without_their_extra(command: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk.trace'] = None\n")
    (error,) = refused(command, PYTHONPATH=str(tmp_path), STOKER_TRACING__ENDPOINT="http://127.0.0.1:4318")
    assert "pip install 'stoker[tracing]'" in error


def test_a_database_that_does_not_answer_is_worth_another_try(free_port: str, stoker_process: StokerProcess) -> None:
    url = f"postgresql://user:pass1234@127.0.0.1:{free_port}/stoker"
    done = stoker_process("migrate", env={"STOKER_DATABASE__URL": url})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the database does not answer: ")
    assert "pass1234" not in done.stderr


@pytest.mark.parametrize(
    ("command", "raised"),
    [
        ("up", CannotStartError),
        ("up", TemporalUnreachableError),
        ("server", PortTakenError),
        ("control-plane", TemporalUnreachableError),
        ("control-plane", MetricsPortError),
        ("worker", JoinRefusedError),
        ("worker", EngineError),
        ("worker", FolderInUseError),
        ("worker", TemporalUnreachableError),
    ],
)
def test_a_process_that_cannot_run_as_it_was_told(
    command: str, raised: type[Exception], stoker: Stoker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_: Settings, *__: object) -> None:
        raise raised("this is why")

    module = command.replace("-", "_")
    monkeypatch.setattr(f"entrypoints.{module}.run_{module}", run)
    monkeypatch.setattr("stoker.logging.configure_logging", lambda *_: None)  # the tests' own log stays as it is
    done = stoker(command)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", "error: this is why\n")


def test_migrate_then_serve_then_use_it(
    tmp_path: Path, free_port: str, refused: Refused, stoker_process: StokerProcess, environment: dict[str, str]
) -> None:
    """The key that the first start leaves in the data folder opens the server for the client, by itself."""
    assert refused("server", "--port", free_port) == [
        "error: the database does not have this version's tables: no such table: api_key",
        "hint: run `stoker migrate`",
    ]
    done = stoker_process("migrate")
    assert (done.returncode, done.stdout) == (
        0,
        f"The database has this version's tables: SQLite, {tmp_path / 'data' / 'stoker.db'}.\n",
    )

    environment["STOKER_API__PORT"] = free_port
    with running_process("server", env=environment) as process:
        _wait_until_it_answers(f"http://127.0.0.1:{free_port}/livez", process)
        done = stoker_process("keys", "create", "app", env={"STOKER_API__PORT": free_port})
        assert (done.returncode, done.stdout[:10]) == (0, "sk-stoker-")
        listed = stoker_process("keys", "-o", "json", "--server", f"http://localhost:{free_port}")
        assert {key["role"] for key in json.loads(listed.stdout)} == {"admin", "user"}
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDS_WITHIN_SECONDS) == 0
    assert (tmp_path / "data" / "admin-key").stat().st_mode & 0o777 == 0o600


@contextmanager
def running_process(*arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed at the end if it is still there."""
    with subprocess.Popen([*PROGRAM, *arguments], env=env, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    """Reads the process's log until it is about to listen; tries until it does."""
    assert process.stderr is not None
    for line in process.stderr:
        if b"api_listening" in line:
            break
    with httpx.Client(transport=httpx.HTTPTransport(retries=6, trust_env=False)) as client:
        assert client.get(url).json() == {"status": "ok"}
    os.set_blocking(process.stderr.fileno(), False)
