"""This host: its Python, its data folder and disks, its ports, its engine and its GPUs. All of it blocks."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psutil
from huggingface_hub.constants import HF_HUB_CACHE

from entrypoints.checks.findings import Finding, ok, warning, wrong
from entrypoints.temporal_server import configured_address
from stoker.domain.units import GIB, MIB, format_bytes
from stoker.settings import Settings
from worker_agent.engine_choice import BUNDLED, ChosenEngine, choose_engine
from worker_agent.engine_programs import EngineError, engine_environment
from worker_agent.inventory import Inventory
from worker_agent.mesh.gateway_process import USUAL_PORT
from worker_agent.pids import is_alive

OLDEST_PYTHON = (3, 11)
LITTLE_ROOM, TOO_LITTLE_ROOM = 5 * GIB, 256 * MIB
"""Of the data folder's disk: headers, logs, databases."""

LITTLE_MODEL_ROOM = 20 * GIB
"""Of the disk for models: a small one has some GiB."""

_ANSWER_SECONDS = 60.0  # of an engine: a GPU's driver may start for many seconds
_CONNECT_SECONDS = 2.0
_ALL_GPUS = frozenset(f"CUDA{number}" for number in range(64))


def check_python() -> list[Finding]:
    """The interpreter."""
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return [wrong("python", found=f"{version} on {system}", advice=f"Stoker needs {oldest} or newer: install it")]
    return [ok("python", found=f"{version} on {system}")]


def check_folders(settings: Settings) -> list[Finding]:
    """The data folder and the hub's cache: that they can be written to, and how much room their disks have."""
    return [
        _folder("data folder", settings.data_dir, LITTLE_ROOM, "another --data-dir or STOKER_DATA_DIR"),
        _folder("models' folder", Path(HF_HUB_CACHE), LITTLE_MODEL_ROOM, "another HF_HOME"),
    ]


def _folder(check: str, folder: Path, little: int, another: str) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        advice = f"let the user that runs Stoker write there, or choose {another}"
        return wrong(check, found=f"{there} cannot be written to", advice=advice)
    free = shutil.disk_usage(there).free
    found = f"{folder}{'' if there == folder else ' (made by the first start)'}, {format_bytes(free)} free"
    if free < TOO_LITTLE_ROOM:
        return wrong(check, found=found, advice=f"make room on that disk, or choose {another}")
    if free < little:
        advice = (
            f"make room: `stoker files evict --older-than 30d` removes models that nobody uses; or choose {another}"
        )
        return warning(check, found=found, advice=advice)
    return ok(check, found=found)


def check_ports(settings: Settings) -> list[Finding]:
    """The ports that `stoker up` takes: free, or taken by Stoker itself."""
    running = _is_up(settings)
    wanted = [("the API", settings.api.host, settings.api.port, "STOKER_API__PORT, --port")]
    if not configured_address(settings):
        wanted += [
            ("Temporal", "127.0.0.1", settings.temporal.port, "STOKER_TEMPORAL__PORT, --temporal-port"),
            ("Temporal's UI", "127.0.0.1", settings.temporal.ui_port, "STOKER_TEMPORAL__UI_PORT, --temporal-ui-port"),
        ]
    return [_port(*each, running=running, url=settings.api_url) for each in wanted]


def _port(what: str, host: str, port: int, flag: str, *, running: bool, url: str) -> Finding:
    check = f"port {port}"
    if not _is_listened_on(host, port):
        if running:
            advice = f"set it for this command as for `stoker up`: {flag}"
            return warning(check, found=f"`stoker up` runs, and {what} is on another port or away", advice=advice)
        return ok(check, found=f"free, for {what}")
    if running or (what == "the API" and _is_stoker(url)):
        return ok(check, found=f"Stoker's own, for {what}")
    advice = f"end what listens there, or choose another port with {flag}"
    return warning(check, found=f"taken by another program; {what} would listen there", advice=advice)


def _is_listened_on(host: str, port: int) -> bool:
    reached = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host  # noqa: S104
    try:
        socket.create_connection((reached, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _is_stoker(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/version", timeout=_CONNECT_SECONDS, trust_env=False)
        return answer.is_success and "version" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


def _is_up(settings: Settings) -> bool:
    """Whether a `stoker up` of this data folder keeps its processes. Its lock is not tried: that could stop a start."""
    try:
        pids = json.loads((settings.data_dir / "processes.json").read_text()).values()
        return any("entrypoints.cli.main" in psutil.Process(pid).cmdline() for pid in pids)
    except (OSError, ValueError, AttributeError, TypeError, psutil.Error):
        return False


def check_engine(settings: Settings) -> list[Finding]:
    """llama.cpp: which one a worker that starts here would use, and that it runs. Then the GPUs, by the same engine."""
    worker = settings.worker
    try:
        chosen = choose_engine(worker.engine, llama_server=worker.llama_server, rpc_server=worker.rpc_server)
    except EngineError as error:
        advice = "correct STOKER_WORKER__LLAMA_SERVER and STOKER_WORKER__RPC_SERVER, or leave them out"
        return [wrong("engine", found=str(error), advice=advice)]
    return [_engine(chosen), *_passed_over(chosen.passed_over), *_gpus(chosen)]


def _engine(chosen: ChosenEngine) -> Finding:
    """A native one has said its version already; the bundled one is asked to start without a model."""
    found = f"{chosen.name} {chosen.engine.describe().version}: {chosen.reason}"
    if chosen.name != BUNDLED:
        if chosen.rpc_problem:
            advice = "it shares no model with other machines: build one with `stoker engine install`"
            return warning("engine", found=f"{found}; no RPC: {chosen.rpc_problem}", advice=advice)
        return ok("engine", found=found)
    said = _start(chosen.engine.main_command(()))
    if "no model given" in said:  # all of its libraries were loaded
        return ok("engine", found=found)
    advice = "on a bare Linux install libgomp (Debian, Ubuntu: `apt-get install libgomp1`); or `stoker engine install`"
    return wrong("engine", found=f"{found}; it does not start: {said.strip()[-200:]}", advice=advice)


def _start(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            env=engine_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_ANSWER_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return (done.stdout + done.stderr).decode(errors="replace")


def _passed_over(engines: Mapping[str, str]) -> list[Finding]:
    return [
        warning("engine", found=f"{name} cannot be used: {reason}", advice=f"`stoker engine remove {name}`, or mend it")
        for name, reason in engines.items()
    ]


def _gpus(chosen: ChosenEngine) -> list[Finding]:
    inventory = Inventory(_ALL_GPUS)
    gpus = [device for device in inventory.read_devices() if device.id != "cpu"]
    findings = [
        wrong("GPU", found=problem, advice="see that `nvidia-smi` shows it; else mend the driver")
        for problem in inventory.problems
    ]
    for gpu in gpus:
        found = f"{gpu.id}: {gpu.name}, {format_bytes(gpu.total)}, {format_bytes(gpu.used)} in use"
        if gpu.engine_name in chosen.engine.device_names:
            findings.append(ok("GPU", found=found))
        else:
            advice = "`stoker engine install` builds one that can, where the CUDA toolkit is installed"
            findings.append(warning("GPU", found=f"{found}; the engine cannot use it", advice=advice))
    return findings or [ok("GPU", found="none that NVIDIA's driver knows: models run on the CPU")]


def check_gateways(settings: Settings) -> list[Finding]:
    """The gateways of the workers of this data folder: the one port that other hosts use."""
    findings = []
    for path in sorted(settings.data_dir.glob("worker/*/gateway/gateway.json")):
        check = f"gateway of {path.parent.parent.name}"
        try:
            record = json.loads(path.read_text())
            pid, birth, host, port = record["pid"], record["birth"], record["host"], record["port"]
        except (OSError, ValueError, KeyError, TypeError):
            findings.append(warning(check, found=f"{path} cannot be read", advice="restart the worker's agent"))
            continue
        if not is_alive(pid, birth):
            advice = "start the worker's agent: `stoker worker`, or `stoker up`"
            findings.append(warning(check, found=f"it does not run; its port is {port}", advice=advice))
        elif not _is_listened_on(host, port):
            advice = f"see {path.with_suffix('.log')}"
            findings.append(wrong(check, found=f"it runs, and nobody is let in on port {port}", advice=advice))
        else:
            findings.append(ok(check, found=f"listens on port {port} of {host}"))
    if findings:
        return findings
    port = settings.worker.mesh_port or USUAL_PORT
    if not _is_listened_on(settings.worker.address, port):
        return [ok("gateway", found=f"no worker has run on this data folder yet; port {port} is free for it")]
    advice = "choose another with --mesh-port or STOKER_WORKER__MESH_PORT, or let the worker choose"
    return [warning("gateway", found=f"port {port} is taken by another program", advice=advice)]
