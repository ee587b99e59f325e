"""Which llama.cpp this host has, and how to start it."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from stoker.domain.workers import Engine, EngineKind
from worker_agent.engine_programs import EngineError, ask_devices, ask_version, engine_environment
from worker_agent.rpc_probe import RpcProbeError, ask_rpc_protocol

RPC_SERVER = "ggml-rpc-server"


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

    def rpc_command(self, arguments: Sequence[str]) -> list[str] | None:
        """The command of an RPC server with these ggml-rpc-server options; None: it has none that can be started."""
        ...


def is_there(engine: EngineProgram) -> bool:
    """Whether its program can still be started: an installed one may have been removed meanwhile."""
    return os.access(engine.main_command(())[0], os.X_OK)


class BundledEngine:
    """xllamacpp's server behind our launcher: always there. CPU only, no RPC."""

    device_names: frozenset[str] = frozenset()

    def describe(self) -> Engine:
        """Its version is the wheel's."""
        return Engine(kind=EngineKind.BUNDLED, version=importlib.metadata.version("xllamacpp"))

    def main_command(self, arguments: Sequence[str]) -> list[str]:
        """This interpreter and the launcher; -P keeps the current folder's files from being imported."""
        return [sys.executable, "-P", "-m", "worker_agent.bundled", *arguments]

    def rpc_command(self, arguments: Sequence[str]) -> list[str] | None:
        """None: the library is built without RPC."""
        return None


class NativeEngine:
    """A llama-server of its own, installed by us or an administrator's. Asks the program what it is, once.

    `path` is its llama-server; `rpc_server` its ggml-rpc-server, None where it has none that answers; `rpc_problem`:
    why the one that is there does not.
    """

    def __init__(self, path: Path, *, rpc_server: Path | None = None, rpc_protocol: str = "") -> None:
        """`rpc_server`: the one beside `path` by default. `rpc_protocol`: where it is known; else it is asked for.

        Blocks while the programs answer. Raises EngineError when `path` is no usable llama-server, or a `rpc_server`
        that was named is no usable ggml-rpc-server; without one, the engine just takes no part in RPC groups.
        """
        if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
            raise EngineError(f"engine {path}: must be the absolute path of an executable llama-server")
        environment = engine_environment(os.environ)
        self.path = path
        self._version = ask_version(path, environment)
        self.device_names = ask_devices(path, environment)
        beside = path.with_name(RPC_SERVER)
        self.rpc_server = rpc_server or (beside if os.access(beside, os.X_OK) else None)
        self.rpc_problem = ""
        self._rpc_protocol = rpc_protocol
        if self.rpc_server is not None and not rpc_protocol:
            try:
                self._rpc_protocol = ask_rpc_protocol(self.rpc_server, environment)
            except RpcProbeError as error:
                if rpc_server is not None:
                    raise EngineError(f"RPC server {error}") from error
                self.rpc_server, self.rpc_problem = None, str(error)

    def describe(self) -> Engine:
        """Its version is what `llama-server --version` says: version, build number and commit."""
        return Engine(kind=EngineKind.NATIVE, version=self._version, rpc_protocol=self._rpc_protocol or None)

    def main_command(self, arguments: Sequence[str]) -> list[str]:
        """The program and its options."""
        return [str(self.path), *arguments]

    def rpc_command(self, arguments: Sequence[str]) -> list[str] | None:
        """The program beside it and its options."""
        if self.rpc_server is None or not os.access(self.rpc_server, os.X_OK):
            return None
        return [str(self.rpc_server), *arguments]
