"""Which llama.cpp this host has, and how to start it."""

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from stoker.domain.workers import Engine, EngineKind

_PROBE_SECONDS = 60  # listing devices starts the GPU driver, which takes many seconds on a host without persistence
_INHERITED = re.compile(
    r"^(PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|XDG_\w+|LD_LIBRARY_PATH|DYLD_\w+|PYTHONPATH|OMP_\w+"
    r"|CUDA_\w+|NVIDIA_\w+|HIP_\w+|ROCR_\w+|HSA_\w+|GGML_\w+)$"
)
_VERSION = re.compile(r"^version: (?P<version>.+)$", re.MULTILINE)
_DEVICE = re.compile(r"^\s+(?P<name>[A-Za-z]+[0-9]+): ", re.MULTILINE)


class EngineError(Exception):
    """An engine that cannot be used; the message says why."""


class EngineProgram(Protocol):
    """What the supervisor and the inventory ask of an engine."""

    @property
    def device_names(self) -> frozenset[str]:
        """llama.cpp's names of the accelerators that it can use (`CUDA0`); the CPU is always usable and not named."""
        ...

    def describe(self) -> Engine:
        """The engine as the worker reports it."""
        ...

    def main_command(self, arguments: Sequence[str]) -> list[str]:
        """The command of a main server with these llama-server options."""
        ...


class BundledEngine:
    """xllamacpp's server behind our launcher: always there. CPU only, no RPC."""

    device_names: frozenset[str] = frozenset()

    def describe(self) -> Engine:
        """Its version is the wheel's."""
        return Engine(kind=EngineKind.BUNDLED, version=importlib.metadata.version("xllamacpp"))

    def main_command(self, arguments: Sequence[str]) -> list[str]:
        """This interpreter and the launcher; -P keeps the current folder's files from being imported."""
        return [sys.executable, "-P", "-m", "worker_agent.bundled", *arguments]


class NativeEngine:
    """An administrator's own llama-server. Asks the program itself for its version and devices, once."""

    def __init__(self, path: Path) -> None:
        """Blocks while the program answers. Raises EngineError when it is no usable llama-server."""
        self._path = path
        if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
            raise EngineError(f"engine {path}: must be the absolute path of an executable llama-server")
        version = _VERSION.search(self._ask("--version"))
        if version is None:
            raise EngineError(f"engine {path}: `--version` did not answer with llama-server's `version: …` line")
        self._version = version["version"]
        self.device_names = frozenset(match["name"] for match in _DEVICE.finditer(self._ask("--list-devices")))

    def describe(self) -> Engine:
        """Its version is what `llama-server --version` says: build number and commit."""
        return Engine(kind=EngineKind.NATIVE, version=self._version)

    def main_command(self, arguments: Sequence[str]) -> list[str]:
        """The program and its options."""
        return [str(self._path), *arguments]

    def _ask(self, option: str) -> str:
        environment = engine_environment(os.environ)
        try:
            done = subprocess.run(
                [self._path, option],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"engine {self._path}: `{option}` gave no answer within {_PROBE_SECONDS} s") from None
        except OSError as error:
            raise EngineError(f"engine {self._path}: cannot be run: {error.strerror}") from error
        output = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode != 0:
            raise EngineError(f"engine {self._path}: `{option}` failed ({done.returncode}): {output.strip()[-500:]}")
        return output


def engine_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine's process: of the agent's own only what libraries and drivers read.

    CUDA numbers its devices fastest first unless told otherwise; by bus id they are numbered as NVML does it, so that
    `CUDA0` means the same card to the inventory and to the engine.
    """
    kept = {name: value for name, value in inherited.items() if _INHERITED.match(name)}
    return kept | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GGML_NO_BACKTRACE": "1"}


def choose_engine(path: Path | None) -> BundledEngine | NativeEngine:
    """The administrator's own engine where a path is given, else the bundled one. Raises EngineError."""
    return BundledEngine() if path is None else NativeEngine(path)
