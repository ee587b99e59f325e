"""Runs cmake and ninja on llama.cpp's source, and says how far they are and what broke."""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from worker_agent.engine_options import TARGETS, EngineInstallError
from worker_agent.engine_source import BuildTools
from worker_agent.pids import signal_group

_SILENT_SECONDS = 3600.0
"""How long a build may say nothing before it is ended: one CUDA file may take many minutes."""

_STEP = re.compile(r"^\[(?P<done>\d+)/(?P<total>\d+)\] ")
_ERROR = re.compile(r"\b(?:fatal )?error ?:|^CMake Error|undefined reference to|ld: cannot find", re.IGNORECASE)
_ADVICE = (
    (re.compile(r"No space left on device"), "The disk is full: make room, or choose another with XDG_CACHE_HOME."),
    (re.compile(r"Killed signal|: Killed$"), "A compiler was killed, most likely for want of memory: try --jobs 1."),
)
_INHERITED = re.compile(
    r"^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|XDG_\w+|LD_LIBRARY_PATH|DYLD_\w+"
    r"|CC|CXX|CPP|LD|AR|AS|NM|RANLIB|(?:C|CXX|CPP|LD|MAKE)FLAGS|LIBRARY_PATH|COMPILER_PATH|GCC_EXEC_PREFIX"
    r"|CPATH|C_INCLUDE_PATH|CPLUS_INCLUDE_PATH|PKG_CONFIG\w*"
    r"|CUDA\w*|NVCC_\w+|NVIDIA_\w+|HIP\w*|ROCM_\w+|HSA_\w+|VULKAN_\w+|VK_\w+"
    r"|SDKROOT|DEVELOPER_DIR|MACOSX_DEPLOYMENT_TARGET|NIX_\w+|CONDA_\w+|CCACHE_\w+|SOURCE_DATE_EPOCH"
    r"|(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY|SSL_CERT_\w+)$"
)
_TAIL_LINES, _LINE_CHARACTERS = 15, 300
_END_SECONDS = 5.0

Report = Callable[[int, int], None]
"""Is told how many steps of how many are done."""


def build(
    tools: BuildTools,
    source: Path,
    folder: Path,
    *,
    flags: Sequence[str],
    jobs: int,
    log_path: Path,
    report: Report,
    silent_seconds: float = _SILENT_SECONDS,
) -> Path:
    """Builds all TARGETS in `folder` (new); returns the folder that they are in.

    `log_path` gets all that cmake and ninja print. Raises EngineInstallError with the first error and the log's end.
    """
    environment = build_environment(os.environ, source.parent)
    configure = [str(tools.cmake), "-S", str(source), "-B", str(folder), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", *flags]
    with log_path.open("w", errors="replace") as log:
        for command in (configure, [str(tools.ninja), "-C", str(folder), "-j", str(jobs), *TARGETS]):
            lines: list[str] = []
            try:
                for line in _run(command, environment, silent_seconds):
                    log.write(line)
                    lines.append(line.rstrip())
                    if step := _STEP.match(line):
                        report(int(step["done"]), int(step["total"]))
            except _CommandFailedError as error:
                raise EngineInstallError(explain_failure(lines, str(error), log_path)) from error
    return folder / "bin"


class _CommandFailedError(Exception):
    """How a command ended."""


def _run(command: Sequence[str], environment: Mapping[str, str], silent_seconds: float) -> Iterator[str]:
    """The lines that the command prints. Nothing of it runs on afterwards. Raises _CommandFailedError.

    Where we are killed ourselves, ninja ends with its next line: its output is a pipe that nobody reads.
    """
    try:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise _CommandFailedError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        quiet = yield from _lines(process.stdout, silent_seconds)
        if quiet:
            raise _CommandFailedError(f"it printed nothing for {silent_seconds:.0f} s")
        if (code := process.wait()) != 0:
            raise _CommandFailedError(f"{Path(command[0]).name} ended with {code}")
    finally:
        _end(process)


def _lines(stream: IO[bytes], silent_seconds: float) -> Generator[str, None, bool]:
    """Line by line until the end; returns whether it was given up for silence."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        last = time.monotonic()
        while selector.select(max(0.0, last + silent_seconds - time.monotonic())):
            block = os.read(stream.fileno(), 1 << 16)
            if not block:
                if rest:
                    yield rest.decode(errors="replace")
                return False
            last = time.monotonic()
            *whole, rest = (rest + block).split(b"\n")
            yield from (f"{line.decode(errors='replace')}\n" for line in whole)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what still runs of the process group: after Ctrl-C, say."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            signal_group(process.pid, number)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    if process.stdout is not None:
        process.stdout.close()


def build_environment(inherited: Mapping[str, str], ceiling: Path) -> dict[str, str]:
    """What compilers get: what they and their toolkits read, and nothing that is secret or changes cmake's options."""
    kept = {name: text for name, text in inherited.items() if _INHERITED.match(name)}
    # `git` must not take the user's own repository, in which the cache may lie, for llama.cpp's.
    return kept | {"NINJA_STATUS": "[%f/%t] ", "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": str(ceiling)}


def explain_failure(lines: Sequence[str], how: str, log_path: Path) -> str:
    """The message for a build that printed `lines` and ended so: its first error, advice, the log's end. Pure."""
    first = _first_error(lines)
    advice = [text for pattern, text in _ADVICE if any(pattern.search(line) for line in lines)]
    tail = [line for line in lines if line.strip()][-_TAIL_LINES:]
    head = f"the build broke ({how})" + (f": {first[:_LINE_CHARACTERS]}" if first else "")
    ending = ["The log ends:", *(f"  {line[:_LINE_CHARACTERS]}" for line in tail)] if tail else ["The log is empty."]
    return "\n".join([head, *advice, *ending, f"The whole log: {log_path}"])


def _first_error(lines: Sequence[str]) -> str:
    """The first line that tells of an error; of cmake's, which say only where, the text below it too."""
    found = next((index for index, line in enumerate(lines) if _ERROR.search(line)), None)
    if found is None:
        return ""
    text = [lines[found].strip()]
    if text[0].startswith("CMake Error"):
        for line in lines[found + 1 :]:
            if line.strip() and not line.startswith(" "):
                break
            text.append(line.strip())
    return " ".join(part for part in text if part)
