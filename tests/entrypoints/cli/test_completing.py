"""What Tab offers, and the scripts that ask for it."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

from entrypoints.cli import completing
from stoker.domain.statuses import WorkerStatus
from tests.builders import make_worker
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import CREATED_AT, FakeApi

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(stoker: Stoker, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What bash offers for the last of the words."""

    def run(*words: str) -> list[str]:
        monkeypatch.setenv("_STOKER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(("stoker", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = stoker()
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout.split()

    return run


@pytest.fixture
def cluster(api: FakeApi, stoker: Stoker) -> FakeApi:
    for name in ("llama", "llama-next", "smol"):
        api.add(name=name)
    api.workers = [
        WorkerStatus(worker=make_worker(name=name), joined_at=CREATED_AT, seen_at=CREATED_AT)
        for name in ("box-1", "box-2")
    ]
    stoker("routes", "set", "org/name", "--to", "llama")
    for name in ("first", "second"):
        stoker("keys", "create", name)
    stoker("keys", "revoke", api.keys[0].id)
    return api


def test_commands_and_flags(complete: Complete) -> None:
    assert complete("des") == ["describe"]
    assert complete("workers", "un") == ["uncordon"]
    assert "--selector" in complete("deploy", "--se")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("describe", "ll"), ["llama", "llama-next"]),
        (("why", ""), ["llama", "llama-next", "smol"]),
        (("rm", "smol", "llama-"), ["llama-next"]),
        (("chat", "s"), ["smol"]),
        (("simulate", "--drain", "b"), ["box-1", "box-2"]),
        (("workers", "drain", "box-2"), ["box-2"]),
        (("files", "--worker", "box-1"), ["box-1"]),
        (("routes", "rm", ""), ["org/name"]),
        (("keys", "set", ""), ["000000000001"]),
        (("describe", "nobody"), []),
    ],
)
def test_names_come_from_the_server(
    words: tuple[str, ...], offered: list[str], cluster: FakeApi, complete: Complete
) -> None:
    assert complete(*words) == offered


@pytest.mark.usefixtures("cluster")
def test_nothing_is_offered_or_said_where_the_server_does_not_tell(
    api: FakeApi, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_API_KEY", api.user_key)
    assert complete("describe", "l") == []
    monkeypatch.setenv("STOKER_SERVER", "http://127.0.0.1:1")
    assert complete("describe", "l") == []
    monkeypatch.setenv("STOKER_SERVER", "nonsense")
    assert complete("describe", "l") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one(shell: str, stoker: Stoker) -> None:
    script = stoker("completion", shell).stdout
    assert f"{completing.VARIABLE}=complete_{shell}" in script
    program = shutil.which(shell)
    if program is not None:
        assert subprocess.run([program, "-n"], input=script, text=True, check=False, timeout=60).returncode == 0


def test_another_shell_is_refused(stoker: Stoker) -> None:
    done = stoker("completion", "tcsh")
    assert done.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr
