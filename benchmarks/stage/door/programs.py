"""The two programs in C: `load` asks, `upstream` answers as llama-server does. gcc makes them when they are missing."""

import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import platformdirs

HERE = Path(__file__).parent
CHUNKS = 100
PACE_MS = 20
EVENTS = CHUNKS + 2  # of a stream, at least: the role's, each token's, and the mark of its end

_BEYOND_SECONDS = 30.0  # what a run may take longer than it was told to


class MissingError(Exception):
    """Something that the benchmark needs is not on this machine; the message says what, and how to get it."""


class Measured(NamedTuple):
    """What one run of the load found. Times in milliseconds, `ttft`: to the first byte of the answer's body."""

    requests: int
    errors: int
    error: str  # the first of them
    rps: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    seconds: float


def program(name: str) -> Path:
    """`load` or `upstream`, made from its source. Raises MissingError."""
    sources = sorted(HERE.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    made = build_folder() / f"{name}-{digest}"
    if not made.exists():
        gcc = shutil.which("gcc") or shutil.which("cc")
        if gcc is None:
            raise MissingError("gcc is not on PATH: apt-get install gcc libc6-dev")
        made.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([gcc, "-O2", "-o", made, HERE / f"{name}.c"], check=True)
    return made


def build_folder() -> Path:
    """Where programs and environments are kept between runs: .build/ of the checkout, else the user's cache."""
    root = HERE.parents[2]
    return (root / ".build" if (root / "pyproject.toml").exists() else platformdirs.user_cache_path("stoker")) / "door"


def pinned(core: int, command: Sequence[str | Path]) -> list[str]:
    """The command, to run on one core only."""
    return ["taskset", "-c", str(core), *map(str, command)]


@contextmanager
def upstream(port: int, core: int, pace_ms: int = PACE_MS) -> Iterator[None]:
    """The engine, listening. `pace_ms`: from one token of a paced stream to the next."""
    command = pinned(core, [program("upstream"), str(port), str(CHUNKS), str(pace_ms)])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"upstream did not start on port {port}: exit code {process.wait()}")
            yield
        finally:
            process.kill()


def run_load(core: int, port: int, request: Path, **options: float) -> Measured:
    """One run; its `options` are those of load.c."""
    (found,) = loading(core, port, request, **options)
    return found


def loading(core: int, port: int, request: Path, **options: float) -> Iterator[Measured]:
    """The same, and what it finds as it finds it: with the option `window` every so many seconds."""
    command = [program("load"), str(port), request, *(f"{name}={value:g}" for name, value in options.items())]
    limit = options.get("seconds", 1) + options.get("warmup", 0) + _BEYOND_SECONDS
    with subprocess.Popen(pinned(core, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(limit, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                yield Measured(**json.loads(line))
            if process.wait():
                raise RuntimeError(f"load ended with {process.returncode}: {process.stderr.read().strip()}")
        finally:
            killer.cancel()
            process.kill()
