"""`stoker up`: the whole system on this machine. A small supervisor of four processes, each restarted when it dies.

Temporal starts first and stops last. Every other process takes its settings from the environment that is made here.
"""

import asyncio
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog

from entrypoints.concurrency import first_of
from entrypoints.data_folder import admin_key_file, join_token, server_secret
from entrypoints.folder_lock import FolderInUseError, locked
from entrypoints.temporal_server import configured_address, temporal_command
from stoker.private_files import write_private
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from worker_agent.logs import rotate

log = structlog.get_logger()

UNUSABLE_SETTINGS = 2
"""The exit code of a process that cannot run as it was told: starting it again would not help."""

READY_WITHIN_SECONDS = 60.0
TEMPORAL_WITHIN_SECONDS = 10.0
STOP_WITHIN_SECONDS = 45.0
KEEP_LOG_BYTES = 20 * 1024 * 1024
ROTATE_EVERY_SECONDS = 60.0
STEADY_SECONDS = 30.0


class CannotStartError(Exception):
    """The system cannot be started as it was told; the message names the cause and what to do."""


@dataclass(frozen=True)
class RunningSystem:
    """What `running_system` yields: where everything is."""

    settings: Settings
    pids: Mapping[str, int]  # kept current: a restarted process has a new one
    failed: asyncio.Event  # set when a process cannot run at all

    @property
    def temporal_ui(self) -> str:
        """The Temporal UI's URL; empty when another cluster is used and no setting says it."""
        own = "" if configured_address(self.settings) else f"http://127.0.0.1:{self.settings.temporal.ui_port}"
        return self.settings.temporal.ui_url or own


async def run_up(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT; 0 after an orderly stop. Raises CannotStartError, later too."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_system(settings, stop) as system:
        if system is not None:
            print(_welcome(system), flush=True)  # noqa: T201
            await first_of(stop.wait(), system.failed.wait())
    return 0


@asynccontextmanager
async def running_system(settings: Settings, stop: asyncio.Event) -> AsyncIterator[RunningSystem | None]:
    """The system, ready to be used; None when `stop` came first. Leaving it stops everything, engines too.

    Raises CannotStartError: the data folder is in use, a port is taken, a process does not come up.
    """
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(locked(settings.data_dir))
        except FolderInUseError as error:
            raise CannotStartError(
                f"another `stoker up` runs on this data folder ({error}): stop it, or choose another --data-dir"
            ) from error
        own_temporal = not configured_address(settings)
        _check_ports(settings, own_temporal)
        database = Database(settings.database_url)
        migrate(database)
        database.close()
        try:
            server_secret(settings)
            join_token(settings)
        except ValueError as error:
            raise CannotStartError(str(error)) from error
        pids: dict[str, int] = {}
        system = RunningSystem(settings, pids, asyncio.Event())
        children = _Children(settings.data_dir, pids, system.failed)
        environment = _environment(settings, own_temporal)
        if own_temporal:
            await stack.enter_async_context(children.running("temporal", temporal_command(settings), {}))
        else:
            await first_of(stop.wait(), _reaches_temporal(settings.temporal.address))
        stoker = [sys.executable, "-P", "-m", "entrypoints.cli.main"]
        for name in ("control-plane", "server", "worker"):
            await stack.enter_async_context(children.running(name, [*stoker, name], environment))
        ready = await first_of(stop.wait(), system.failed.wait(), _answers(settings))
        if system.failed.is_set():
            raise CannotStartError(children.last_words())
        yield None if stop.is_set() or not ready else system
        if system.failed.is_set():
            raise CannotStartError(children.last_words())


class _Children:
    """Starts processes, and starts them again when they die."""

    def __init__(self, data_dir: Path, pids: dict[str, int], failed: asyncio.Event) -> None:
        self._logs = data_dir / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._pids, self._failed = pids, failed
        self._pid_file = data_dir / "processes.json"
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._broken = ""

    @asynccontextmanager
    async def running(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[None]:
        """Keeps the process alive inside the block; ends it at the end of it."""
        await self._start(name, command, environment)
        keepers = [
            asyncio.create_task(self._keep(name, command, environment)),
            asyncio.create_task(self._keep_log_short(name)),
        ]
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await _end(name, self._processes.pop(name))
            self._pids.pop(name, None)

    def last_words(self) -> str:
        """Why a process could not run at all."""
        path = self._log_file(self._broken)
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        shown = "\n".join(lines[-5:]) or "it said nothing"
        return f"the process {self._broken} cannot run:\n{shown}\n(its log is {path})"

    async def _keep(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the process again whenever it dies, until cancelled."""
        pause = 0.1
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            code = await self._processes[name].wait()
            if code == UNUSABLE_SETTINGS and name != "temporal":  # a panic of Go ends with the same code
                self._broken = name
                self._failed.set()
                return
            pause = 0.1 if loop.time() - started > STEADY_SECONDS else min(10.0, pause * 2)
            log.warning("process_died", name=name, exit_code=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            await self._start(name, command, environment)

    async def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with self._log_file(name).open("ab") as out:
            process = self._processes[name] = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C on the terminal is ours: we stop them in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._pids[name] = process.pid
        try:
            write_private(self._pid_file, json.dumps(self._pids))
        except OSError as error:  # a full disk, say: the file is for people only
            log.warning("pid_file_not_written", error=str(error))

    async def _keep_log_short(self, name: str) -> None:
        while True:
            try:
                await asyncio.to_thread(rotate, self._log_file(name), KEEP_LOG_BYTES)
            except OSError as error:  # a full disk, say: the process goes on
                log.warning("log_rotation_failed", name=name, error=str(error))
            await asyncio.sleep(ROTATE_EVERY_SECONDS)

    def _log_file(self, name: str) -> Path:
        return self._logs / f"{name}.log"


async def _end(name: str, process: asyncio.subprocess.Process) -> None:
    """SIGTERM, time to stop, SIGKILL."""
    for number, wait in ((signal.SIGTERM, STOP_WITHIN_SECONDS), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), wait)
            return
        log.warning("process_does_not_stop", name=name, pid=process.pid)


def _die_with_parent() -> None:
    # Should this supervisor be killed, its processes must not go on without it: Linux tells them.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _environment(settings: Settings, own_temporal: bool) -> dict[str, str]:
    """Our settings as our processes' environment. Secrets reach them as they reached us: by file or environment."""
    made: dict[str, str] = {"STOKER_DATA_DIR": str(settings.data_dir), "STOKER_LOG_LEVEL": settings.log_level}
    tables = settings.model_dump(
        mode="json", include={"api", "database", "temporal", "tracing", "worker"}, exclude_none=True
    )
    for table, fields in tables.items():
        for field, value in fields.items():
            if field == "join_token":
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            made[f"STOKER_{table}__{field}".upper()] = text
    made["STOKER_WORKER__STOP_PROCESSES_ON_EXIT"] = "true"
    if own_temporal:
        made["STOKER_TEMPORAL__ADDRESS"] = f"127.0.0.1:{settings.temporal.port}"
        made["STOKER_TEMPORAL__UI_URL"] = settings.temporal.ui_url or f"http://127.0.0.1:{settings.temporal.ui_port}"
    elif not settings.temporal.address:
        made.pop("STOKER_TEMPORAL__ADDRESS", None)  # TEMPORAL_ADDRESS or a profile says it
    return made


def _check_ports(settings: Settings, own_temporal: bool) -> None:
    wanted = [(settings.api.host, settings.api.port, "the API: --port, STOKER_API__PORT")]
    if own_temporal:
        wanted += [
            (
                "127.0.0.1",
                settings.temporal.port,
                "Temporal: --temporal-port, or use the one there with TEMPORAL_ADDRESS",
            ),
            ("127.0.0.1", settings.temporal.ui_port, "Temporal's UI: --temporal-ui-port"),
        ]
    for host, port, what in wanted:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            raise CannotStartError(
                f"port {port} on {host} is not free ({os.strerror(error.errno or 0)}). Choose another for {what}"
            ) from error


async def _reaches_temporal(address: str) -> None:
    """Raises CannotStartError when the cluster that is to be used does not answer."""
    from stoker.temporal import TemporalUnreachableError, connect

    try:
        await connect(address, wait_seconds=TEMPORAL_WITHIN_SECONDS)
    except TemporalUnreachableError as error:
        raise CannotStartError(f"{error}. Check TEMPORAL_ADDRESS, or unset it to run the built-in server") from error
    finally:
        await asyncio.sleep(0.5)  # lets the SDK's threads end: else the interpreter may crash at exit (sdk-python #300)


async def _answers(settings: Settings) -> bool:
    """True when the API answers, its checks are well, and this machine's worker has joined. Raises CannotStartError."""
    headers = {}
    async with httpx.AsyncClient(base_url=settings.api_url, timeout=5.0, trust_env=False) as client:
        try:
            async with asyncio.timeout(READY_WITHIN_SECONDS):
                while True:
                    with suppress(httpx.HTTPError, OSError):
                        key = admin_key_file(settings).read_text().strip()
                        headers = {"authorization": f"Bearer {key}"}
                        checks = (await client.get("/readyz")).json()["checks"].values()
                        workers = await client.get("/api/v1/workers", headers=headers)
                        joined = workers.status_code == 200 and bool(workers.json()["data"])
                        if joined and all(check["status"] == "ok" for check in checks):
                            return True
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = settings.data_dir / "logs"
            raise CannotStartError(
                f"the system did not come up within {READY_WITHIN_SECONDS:.0f} s: see {logs}"
            ) from None


def _prefix(settings: Settings) -> str:
    """What the `stoker` command must be told to find this system; nothing when it is where it looks by itself."""
    told = []
    if settings.data_dir != Settings().data_dir:
        told.append(f"STOKER_DATA_DIR={shlex.quote(str(settings.data_dir))} ")
    if settings.api.port != Settings().api.port:
        told.append(f"STOKER_API__PORT={settings.api.port} ")
    return "".join(told)


def _welcome(system: RunningSystem) -> str:
    settings = system.settings
    width = shutil.get_terminal_size().columns
    lines = [
        "Stoker is up.",
        "",
        f"  Web page          {settings.api_url}  (sign in with the admin key)",
        f"  OpenAI endpoint   {settings.api_url}/v1",
        f"  API and its docs  {settings.api_url}/docs",
        f"  Temporal UI       {system.temporal_ui or 'that of your Temporal cluster'}",
        f"  Admin key         in {admin_key_file(settings)}",
        f"  Join token        in {settings.data_dir / 'join-token'}",
        f"  Logs              in {settings.data_dir / 'logs'}",
        "",
        f"Next: {_prefix(settings)}stoker deploy NAME --model hf:ORG/REPO:QUANT   (Ctrl-C here stops everything)",
        "-" * min(width, 80),
    ]
    return "\n".join(lines)
