"""Every test, in two processes at a time: most tests wait most of the time.

    python -m tests.parts [--at-once 2] [PART ...]

A part is a folder of tests without the folders below it, or one file of those that drive the whole system; each runs in
a pytest of its own. What a part printed is shown where it failed. What failed is tried once more, by itself: where it
passes then, the part passes, and the last line says so; that is a test to be mended, and no reason to stop everybody.
The exit code is 1 when any part failed.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PART_SECONDS = 1500.0  # then a part is ended, with all that it started
_FAILED, _NOTHING_RAN = 1, 5  # pytest's exit codes for tests that failed, and for no tests

BY_FILE = frozenset({"tests/e2e", "tests/browser"})
"""Folders whose files are parts: each of these tests takes a while, and most of it is waiting."""

LONG_FIRST = (
    "tests/workflows",
    "tests/worker_agent",
    "tests/stoker/domain",
    "tests/stoker/storage",
    "tests/e2e/test_absence.py",
    "tests/entrypoints/cli",
    "tests/entrypoints",
    "tests/api",
    "tests/e2e/test_restart.py",
    "tests/e2e/test_load.py",
    "tests/api/openai",
)
"""What takes longest, begun first: else it would be waited for at the end."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    part: str
    code: int
    seconds: float
    printed: str
    again: bool = False  # it passed at the second try only

    @property
    def summary(self) -> str:
        """Pytest's own last line."""
        lines = [line.strip("= ") for line in self.printed.splitlines() if line.strip()]
        return lines[-1] if lines else "it printed nothing"


def parts_of(files: Sequence[str]) -> dict[str, list[str]]:
    """Parts and their files, in the order in which they are begun."""
    parts: dict[str, list[str]] = {}
    for file in sorted(files):
        folder = file.rpartition("/")[0]
        parts.setdefault(file if folder in BY_FILE else folder, []).append(file)

    def turn(part: str) -> tuple[int, str]:
        return (LONG_FIRST.index(part) if part in LONG_FIRST else len(LONG_FIRST), part)

    return {part: parts[part] for part in sorted(parts, key=turn)}


def run(part: str, files: Sequence[str], seconds: float = PART_SECONDS) -> Outcome:
    """Runs a part, and what failed of it once more. After `seconds` a run is ended, with every thread's stack."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        remembering = ["-o", f"cache_dir={cache}"]
        code, printed = _run([*remembering, *files], seconds)
        again = False
        if code == _FAILED:
            code, more = _run(["--last-failed", *remembering, *files], seconds)
            again, printed = code == 0, f"{printed}\n--- what failed, once more:\n{more}"
    return Outcome(part, code, time.monotonic() - began, printed, again)


def _run(arguments: Sequence[str], seconds: float) -> tuple[int, str]:
    """Pytest's exit code, and what it printed."""
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # pytest's faulthandler tells where it was
            printed.write(f"\nIt was ended after {seconds:.0f} s.\n")
        finally:
            _end(process)
        printed.seek(0)
        return process.returncode, printed.read()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends what is left of it; nothing where it has ended by itself."""
    if process.poll() is None:
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="like tests/api; all of them where none is named")
    parser.add_argument("--at-once", type=int, default=2, help="so many at a time (2)")
    chosen = parser.parse_args()
    parts = parts_of([str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "tests").rglob("test_*.py")])
    if unknown := set(chosen.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    parts = {part: files for part, files in parts.items() if part in chosen.parts or not chosen.parts}
    began, failed, again = time.monotonic(), [], []
    with ThreadPoolExecutor(chosen.at_once) as turns:
        running = [turns.submit(run, part, files) for part, files in parts.items()]
        for done in as_completed(running):
            outcome = done.result()
            if outcome.code not in (0, _NOTHING_RAN):
                failed.append(outcome.part)
            if outcome.again:
                again.append(outcome.part)
            if outcome.again or outcome.part in failed:
                print(f"\n--- {outcome.part} failed ({outcome.code}); it printed:\n{outcome.printed}", flush=True)
            print(f"{outcome.part}: {outcome.summary}", flush=True)
    took = f"{(time.monotonic() - began) / 60:.1f} minutes"
    print(f"\n{len(parts)} parts in {took}; {'failed: ' + ', '.join(failed) if failed else 'none failed'}")
    if again:
        print(f"passed at the second try only: {', '.join(again)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
