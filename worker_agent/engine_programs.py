"""llama.cpp's programs on this host: in which environment they run, and what they say of themselves."""

import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ANSWER_SECONDS = 60  # listing devices starts the GPU driver, which takes many seconds on a host without persistence
_INHERITED = re.compile(
    r"^(PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|XDG_\w+|LD_LIBRARY_PATH|DYLD_\w+|PYTHONPATH|OMP_\w+"
    r"|CUDA_\w+|NVIDIA_\w+|HIP_\w+|ROCR_\w+|HSA_\w+|GGML_\w+)$"
)
_VERSION = re.compile(r"^version: (?P<version>.+)$", re.MULTILINE)
_DEVICE = re.compile(r"^\s+(?P<name>[A-Za-z]+[0-9]+): ", re.MULTILINE)


class EngineError(Exception):
    """An engine that cannot be used; the message says why."""


def engine_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine's process: of the agent's own only what libraries and drivers read.

    CUDA numbers its devices fastest first unless told otherwise; by bus id they are numbered as NVML does it, so that
    `CUDA0` means the same card to the inventory and to the engine.
    """
    kept = {name: value for name, value in inherited.items() if _INHERITED.match(name)}
    return kept | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GGML_NO_BACKTRACE": "1"}


def ask_version(program: Path, environment: Mapping[str, str]) -> str:
    """What `llama-server --version` says: `0.5.0-dev (build 0, commit 0c1e57098)`. Raises EngineError."""
    version = _VERSION.search(ask(program, "--version", environment))
    if version is None:
        raise EngineError(f"engine {program}: `--version` did not answer with llama-server's `version: …` line")
    return version["version"]


def ask_devices(program: Path, environment: Mapping[str, str]) -> frozenset[str]:
    """llama.cpp's names of the accelerators that a llama-server can use. Raises EngineError."""
    return frozenset(match["name"] for match in _DEVICE.finditer(ask(program, "--list-devices", environment)))


def ask(program: Path, option: str, environment: Mapping[str, str]) -> str:
    """What a program prints for one option, on either stream. Raises EngineError when it fails."""
    try:
        done = subprocess.run(
            [program, option],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"engine {program}: `{option}` gave no answer within {_ANSWER_SECONDS} s") from None
    except OSError as error:
        raise EngineError(f"engine {program}: cannot be run: {error.strerror}") from error
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode != 0:
        raise EngineError(f"engine {program}: `{option}` failed ({_how(done.returncode)}): {output.strip()[-500:]}")
    return output


def _how(code: int) -> str:
    if code == -signal.SIGILL:
        return "SIGILL: it uses instructions that this processor lacks"
    return signal.Signals(-code).name if -code in set(signal.Signals) else str(code)
