"""On a terminal: bars, tables that are kept current, conversations; and Ctrl-C."""

import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import WorkerStatus
from stoker.domain.workers import WorkerState
from tests.builders import make_worker
from tests.entrypoints.cli.conftest import ENDS_WITHIN_SECONDS, PROGRAM, Stoker
from tests.fakes.api import CREATED_AT, FakeApi, chat_answer, make_instance

COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|9[0-7])(?:;[0-9]+)*m")


class Terminal:
    """A program whose stdin, stdout and stderr are one terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master = process, master
        self.shown = ""
        self._seen = 0

    def wait_for(self, text: str) -> None:
        """Reads until `text` was shown, behind what was waited for before."""
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._read(), f"ended before {text!r}: {self.shown!r}"
        self._seen = at + len(text)

    def type(self, text: str) -> None:
        """As somebody would on a keyboard."""
        os.write(self._master, text.encode())

    def ended(self) -> int:
        """Reads the rest; the exit code."""
        while self._read():
            pass
        return self.process.wait(ENDS_WITHIN_SECONDS)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], ENDS_WITHIN_SECONDS)
        assert ready, f"nothing more came: {self.shown!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's way of saying that nobody has the terminal open any more
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)


TerminalStoker = Callable[..., Terminal]


@pytest.fixture
def on_terminal(api: FakeApi, environment: dict[str, str]) -> Iterator[TerminalStoker]:
    """Starts `stoker ARGUMENTS…` on a terminal of 100 columns, against `api`."""
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def start(*arguments: str, **env: str) -> Terminal:
        master, slave = pty.openpty()
        access = {"STOKER_SERVER": api.url, "STOKER_API_KEY": api.admin_key, "COLUMNS": "100"}
        process = subprocess.Popen(
            [*PROGRAM, *arguments], env=environment | access | env, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        started.append((process, master))
        return Terminal(process, master)

    yield start
    for process, master in started:
        process.kill()
        process.wait()
        os.close(master)


@contextmanager
def on_pipes(api: FakeApi, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`stoker ARGUMENTS…` with pipes for stdout and stderr."""
    env = environment | {"STOKER_SERVER": api.url, "STOKER_API_KEY": api.admin_key}
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *arguments], env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_why_watch_keeps_one_current_until_it_is_gone(api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.add(steps=[(make_instance(InstanceState.PENDING),), (make_instance(InstanceState.RUNNING),), None])
    terminal = on_terminal("why", "llama", "--watch")
    for shown in ("slots 4 → 1", "the emptiest GPU", "it is gone"):
        terminal.wait_for(shown)
    assert terminal.ended() == 0


def test_a_removal_by_apply_is_asked_about(api: FakeApi, on_terminal: TerminalStoker, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("version: 1\n")
    api.add(make_instance())
    terminal = on_terminal("apply", "-f", str(file), "--prune")
    terminal.wait_for("1 to remove")
    terminal.wait_for("apply this, and remove 1? [y/N]")
    terminal.type("n\n")
    assert terminal.ended() == 1
    assert not [asked for asked in api.requests if asked.method == "DELETE"]
    assert on_terminal("apply", "-f", str(file), "--prune", "--yes").ended() == 0
    assert [asked.path for asked in api.requests if asked.method == "DELETE"] == ["/api/v1/deployments/llama"]


def test_top_is_kept_current_until_q(api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.workers = [WorkerStatus(worker=make_worker(name="box-1"), joined_at=CREATED_AT, seen_at=CREATED_AT)]
    api.metrics = [f'stoker_requests_running{{model="llama"}} {count}.0\n' for count in (0, 0, 7)]
    api.add(make_instance())
    terminal = on_terminal("top", "--interval", "0.1", COLUMNS="160", LINES="30")
    terminal.wait_for("box-1")
    terminal.wait_for("7 requests under way")
    terminal.type("q")
    assert terminal.ended() == 0
    assert "\x1b[?1049l" in terminal.shown, "the terminal shows again what it showed before"


@pytest.mark.parametrize("no_colour", [False, True])
def test_deploy_shows_a_bar(no_colour: bool, on_terminal: TerminalStoker) -> None:
    terminal = on_terminal("deploy", "smol", "-m", "hf:a/b", **({"NO_COLOR": "1"} if no_colour else {}))
    assert terminal.ended() == 0
    assert "━━━" in terminal.shown
    assert "smol is " in terminal.shown
    assert bool(COLOUR.search(terminal.shown)) is not no_colour


def test_deploy_on_a_terminal_says_why_it_waits(api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.life = lambda *_: [(make_instance(InstanceState.PENDING, instance_id="smol-0", deployment="smol"),)]
    terminal = on_terminal("deploy", "smol", "-m", "hf:a/b")
    terminal.wait_for("what would help: slots 4 → 1")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 130
    assert terminal.shown.rstrip().endswith("smol goes on by itself: see `stoker ps`")


def test_ctrl_c_while_waiting_is_exit_code_130(api: FakeApi, environment: dict[str, str]) -> None:
    api.life = lambda *_: [(make_instance(InstanceState.STARTING, instance_id="smol-0", deployment="smol"),)]
    with on_pipes(api, environment, "deploy", "smol", "-m", "hf:a/b") as process:
        assert process.stderr is not None
        assert [process.stderr.readline() for _ in range(2)] == ["smol: created, hf:a/b\n", "smol-0 starting\n"]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "smol goes on by itself: see `stoker ps`\n"
        assert process.wait(ENDS_WITHIN_SECONDS) == 130


def test_ps_watch_keeps_a_table_current(api: FakeApi, on_terminal: TerminalStoker) -> None:
    starting, running = make_instance(InstanceState.STARTING), make_instance(InstanceState.RUNNING)
    api.add(steps=[(starting,), (running,), ()])
    terminal = on_terminal("ps", "--watch")
    for shown in ("0/1", "1/1", "0/1"):
        terminal.wait_for(shown)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 130
    assert "error" not in terminal.shown.lower()


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ("ps", "--watch"),
            [
                "added     llama  hf:bartows…-Instruct-GGUF:Q4_K_M  progressing  0/1  3d  \n",
                "modified  llama  hf:bartows…-Instruct-GGUF:Q4_K_M  running  1/1  3d  all replicas answer\n",
                "deleted   llama  hf:bartows…-Instruct-GGUF:Q4_K_M  running  1/1  3d  all replicas answer\n",
            ],
        ),
        (("ps", "-w", "-o", "json"), ['{"event": "added", ', '{"event": "modified", ', '{"event": "deleted", ']),
    ],
)
def test_ps_watch_elsewhere_is_a_line_a_change(
    arguments: tuple[str, ...], lines: list[str], api: FakeApi, environment: dict[str, str]
) -> None:
    api.add(steps=[(make_instance(InstanceState.STARTING),), (make_instance(InstanceState.RUNNING),), None])
    with on_pipes(api, environment, *arguments) as process:
        assert process.stdout is not None
        for line in lines:
            assert process.stdout.readline().startswith(line)
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDS_WITHIN_SECONDS) == 130


def test_a_conversation(api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.answers = [chat_answer("Apple."), chat_answer("Cherry.")]
    terminal = on_terminal("chat", "llama")
    terminal.wait_for("> ")
    terminal.type("Name a fruit.\n")
    terminal.wait_for("first token after")
    terminal.type("\nAnother?\n")
    terminal.wait_for("Cherry.")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.ended() == 0
    assert api.bodies("POST", "/v1/chat/completions")[1]["messages"] == [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "Apple."},
        {"role": "user", "content": "Another?"},
    ]


def test_a_conversation_goes_on_after_an_error(api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.answers = [chat_answer("Apple", done=False), chat_answer("Cherry.")]
    terminal = on_terminal("chat", "llama")
    terminal.wait_for("> ")
    terminal.type("Name a fruit.\n")
    terminal.wait_for("was cut off")
    terminal.type("Again?\n")
    terminal.wait_for("Cherry.")
    assert api.bodies("POST", "/v1/chat/completions")[1]["messages"] == [{"role": "user", "content": "Again?"}]


def test_ctrl_c_at_the_prompt_ends_a_conversation(on_terminal: TerminalStoker) -> None:
    terminal = on_terminal("chat", "llama")
    terminal.wait_for("> ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.type("\n")  # readline may have looked for signals just before this one: a key makes it look again
    assert terminal.ended() == 130


def test_a_model_cannot_steer_the_terminal(api: FakeApi, on_terminal: TerminalStoker, stoker: Stoker) -> None:
    api.answers = [chat_answer("\x1b[2Jgone")] * 2
    terminal = on_terminal("chat", "llama", "Clear my screen.")
    assert terminal.ended() == 0
    assert "\ufffd[2Jgone" in terminal.shown
    assert stoker("chat", "llama", "Clear my screen.").stdout == "\x1b[2Jgone\n"  # a pipe gets what the model said


@pytest.mark.parametrize(("answer", "code", "drained"), [("y", 0, True), ("n", 1, False)])
def test_a_drain_asks_first(answer: str, code: int, drained: bool, api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.workers = [WorkerStatus(worker=make_worker(name="box-1"), joined_at=CREATED_AT, seen_at=CREATED_AT)]
    terminal = on_terminal("workers", "drain", "box-1")
    terminal.wait_for("drain box-1? [y/N]")
    terminal.type(f"{answer}\n")
    assert terminal.ended() == code
    assert (api.worker("box-1").worker.state is WorkerState.DRAINING) is drained


def test_a_drain_that_is_told_yes_does_not_ask(api: FakeApi, on_terminal: TerminalStoker) -> None:
    api.workers = [WorkerStatus(worker=make_worker(name="box-1"), joined_at=CREATED_AT, seen_at=CREATED_AT)]
    terminal = on_terminal("workers", "drain", "box-1", "--yes")
    assert terminal.ended() == 0
    assert "?" not in terminal.shown
