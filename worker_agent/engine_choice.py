"""Which of this host's engines the agent uses: the administrator's, else the best installed, else the bundled one."""

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stoker.domain.base import Value
from worker_agent.engine_options import Backend
from worker_agent.engine_programs import EngineError
from worker_agent.engine_store import EngineStore, InstalledEngine
from worker_agent.engines import BundledEngine, EngineProgram, NativeEngine

AUTO, BUNDLED = "auto", "bundled"


class Candidate(Value):
    """An installed engine, as far as the choice goes. `devices`: accelerators that it can use here."""

    name: str
    release: str
    backend: Backend
    built_at: float = 0.0  # seconds since the epoch
    devices: tuple[str, ...] = ()


class ChosenEngine:
    """An engine and why it is used. `passed_over`: what could not be used, and why, by name.

    `rpc_problem`: why an administrator's own engine takes no part in RPC groups although it has a ggml-rpc-server.
    """

    def __init__(self, engine: EngineProgram, name: str, reason: str, passed_over: Mapping[str, str]) -> None:
        self.engine, self.name, self.reason, self.passed_over = engine, name, reason, dict(passed_over)
        self.rpc_problem = engine.rpc_problem if isinstance(engine, NativeEngine) else ""


def by_preference(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first. Pure.

    First those that can use an accelerator of this host; then the newest release; then, where no accelerator can be
    used, the plain CPU build; then what was built last.
    """

    def rank(candidate: Candidate) -> tuple[bool, tuple[int, ...], bool, float, str]:
        release = tuple(int(number) for number in re.findall(r"\d+", candidate.release))
        plain = candidate.backend is Backend.CPU
        return bool(candidate.devices), release, plain, candidate.built_at, candidate.name

    return sorted(candidates, key=rank, reverse=True)


def choose_engine(
    wanted: str = AUTO,
    *,
    llama_server: Path | None = None,
    rpc_server: Path | None = None,
    store: EngineStore | None = None,
) -> ChosenEngine:
    """The engine to use. Blocks while the installed ones answer.

    `llama_server`, an administrator's own, comes before all else. `wanted` is `bundled`, the name of an installed one,
    or `auto`. An installed engine that cannot be used never raises: the next best is taken, in the end the bundled.
    Raises EngineError for an own program that is unusable.
    """
    if llama_server is not None:
        return ChosenEngine(NativeEngine(llama_server, rpc_server=rpc_server), "own", f"set: {llama_server}", {})
    if wanted == BUNDLED:
        return ChosenEngine(BundledEngine(), BUNDLED, "set", {})
    store = store or EngineStore()
    passed_over = store.damaged()
    usable: dict[str, NativeEngine] = {}
    candidates = []
    for installed in store.installed():
        name = installed.manifest.name
        if wanted not in (AUTO, name):
            continue
        try:
            usable[name] = open_installed(installed)
        except EngineError as error:
            passed_over[name] = str(error)
        else:
            candidates.append(_candidate(installed, usable[name]))
    for best in by_preference(candidates)[:1]:
        reason = "set" if wanted == best.name else _reason(best, len(candidates))
        return ChosenEngine(usable[best.name], best.name, reason, passed_over)
    if wanted != AUTO:
        passed_over.setdefault(wanted, f"no engine of that name is installed in {store.folder}")
    reason = "no installed engine can be used" if passed_over else "no other engine is installed"
    return ChosenEngine(BundledEngine(), BUNDLED, reason, passed_over)


def open_installed(installed: InstalledEngine) -> NativeEngine:
    """The engine, ready for use. Raises EngineError."""
    here = f"{platform.system()}-{platform.machine()}".lower()
    if installed.manifest.platform != here:
        raise EngineError(f"it was built for {installed.manifest.platform}, and this is {here}")
    path = installed.program("llama-server")
    return NativeEngine(path, rpc_protocol=installed.manifest.rpc_protocol)


def _candidate(installed: InstalledEngine, engine: NativeEngine) -> Candidate:
    manifest = installed.manifest
    return Candidate(
        name=manifest.name,
        release=manifest.release,
        backend=manifest.backend,
        built_at=manifest.built_at.timestamp(),
        devices=tuple(sorted(engine.device_names)),
    )


def _reason(best: Candidate, count: int) -> str:
    if best.devices:
        return f"it can use {', '.join(best.devices)}"
    return "the only one installed" if count == 1 else "the newest of those installed"
