"""The way of a new user through the README, timed: from a clone to a second machine's worker that answers.

    python -m tests.newcomer_run [--cold] [--folder FOLDER]

A clone of HEAD, empty home folders, the README's own commands (each is looked up in it first) on the README's ports.
The second machine is a home folder of its own on this one: loopback stands for the README's ssh. Packages come from
the user's cache unless `--cold`. The last line is JSON: seconds by step; the exit code is 1 where a step failed.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from entrypoints.demo.model import fetch_demo_model

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
PORTS = (8410, 7233)
STEP_SECONDS = 900.0
_OURS = ("STOKER_", "TEMPORAL_", "VIRTUAL_ENV", "XDG_", "PYTHON")
QUESTION = "Name three fruits."


class Newcomer:
    """One machine's user: a checkout, and a home folder."""

    def __init__(self, checkout: Path, home: Path, *, cold: bool) -> None:
        home.mkdir(parents=True)
        self.checkout, self.home = checkout, home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        cache = home / ".cache" if cold else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        self._environment = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(cache)}
        self._environment["PATH"] = f"{checkout / '.venv' / 'bin'}:{kept['PATH']}"

    def does(self, command: list[str]) -> str:
        """Runs a command to its end; what it said. Raises RuntimeError where it failed."""
        done = subprocess.run(
            command, cwd=self.checkout, env=self._environment, capture_output=True, text=True, timeout=STEP_SECONDS,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    @contextmanager
    def keeps(self, command: list[str], said: str = "") -> Iterator[Callable[[], str]]:
        """A command that runs meanwhile, told `said`; what it wrote so far."""
        log = self.home / f"{command[1]}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=self.checkout, env=self._environment, stdin=subprocess.PIPE, stdout=output,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        try:
            assert process.stdin is not None
            process.stdin.write(said)
            process.stdin.close()
            yield log.read_text
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Steps:
    """What has taken how long."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, in_readme: str = "") -> Iterator[None]:
        """Times a step; `in_readme` must stand there."""
        if in_readme not in README:
            raise RuntimeError(f"the README does not say: {in_readme}")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(f"{self.seconds[name]:7.1f} s  {name}", file=sys.stderr, flush=True)


def until(look: Callable[[], bool], told: Callable[[], str]) -> None:
    """Waits until it is so. Raises RuntimeError at the deadline."""
    deadline = time.monotonic() + STEP_SECONDS
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {STEP_SECONDS:.0f} s: {told()}")
        time.sleep(0.1)


def walk(folder: Path, steps: Steps, *, cold: bool) -> None:
    """The whole way."""
    first = Newcomer(folder / "stoker", folder / "first", cold=cold)
    second = Newcomer(folder / "stoker", folder / "second", cold=cold)
    with steps.step("clone"):
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(first.checkout)], check=True)
    with steps.step("make demo (sets up, deploys, answers)", "make demo EXIT=1"):
        first.does(["make", "demo", "EXIT=1"])
    model = first.home / "models" / "mine.gguf"
    model.parent.mkdir()
    shutil.copy(fetch_demo_model(), model)
    with ExitStack() as stack:
        with steps.step("everything is up", "stoker up --host 0.0.0.0"):
            told = stack.enter_context(first.keeps(["stoker", "up", "--host", "0.0.0.0"]))  # noqa: S104 - as there
            until(lambda: _workers(first) == 1, told)
        with steps.step("a model of one's own runs", "stoker deploy mine --model file:$HOME/models/mine.gguf"):
            first.does(["stoker", "deploy", "mine", "--model", f"file:{model}"])
        with steps.step("it answers", "stoker chat qwen"):
            first.does(["stoker", "chat", "mine", QUESTION])
        with steps.step("a token for a second machine", "stoker workers token --label rack=7"):
            token = first.does(["stoker", "workers", "token", "--label", "rack=7"]).split()[0]
        with steps.step("the second machine's worker is there", "--address 192.168.1.20 --join-token-file -"):
            command = ["stoker", "worker", "--server", "http://127.0.0.1:8410", "--address", "127.0.0.2"]
            command += ["--name", "second", "--join-token-file", "-"]
            told = stack.enter_context(second.keeps(command, f"{token}\n"))
            until(lambda: _workers(first) == 2, told)
        theirs = second.home / "mine.gguf"
        shutil.copy(model, theirs)
        with steps.step("a model runs there", "--selector"):
            first.does(["stoker", "deploy", "theirs", "--model", f"file:{theirs}", "--selector", "rack=7"])
        with steps.step("it answers too"):
            first.does(["stoker", "chat", "theirs", QUESTION])
        first.does(["stoker", "rm", "mine", "theirs"])  # a worker whose agent stops keeps its engines


def _workers(user: Newcomer) -> int:
    try:
        found = json.loads(user.does(["stoker", "workers", "list", "-o", "json"]))
    except RuntimeError:  # the API is not there yet
        return 0
    return sum(worker["state"] == "ready" for worker in found)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cold", action="store_true", help="packages are fetched anew")
    parser.add_argument("--folder", type=Path, help="instead of a temporary one, which is removed")
    given = parser.parse_args()
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                parser.error(f"port {port} is taken, and the README's way takes it")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="newcomer-"))
    steps, failed = Steps(), ""
    began = time.monotonic()
    try:
        walk(folder, steps, cold=given.cold)
    except (RuntimeError, subprocess.SubprocessError) as error:
        failed = str(error)
        print(failed, file=sys.stderr)
    total = round(time.monotonic() - began, 1)
    print(
        json.dumps({"run": "newcomer", "cold": given.cold, "total_s": total, "steps": steps.seconds, "ok": not failed})
    )
    if given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
