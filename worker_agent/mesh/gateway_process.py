"""The gateway as its agent sees it: adopted if it lives, started if not, and looked after again and again."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from stoker.domain.base import Value
from stoker.mesh.sockets import is_loopback
from stoker.private_files import write_private
from stoker.version import VERSION
from worker_agent.logs import rotate
from worker_agent.mesh.grants import Grants
from worker_agent.pids import birth_of, find_marked, is_alive, listening_port, reap, signal_group
from worker_agent.processes import MARK, spawn

log = structlog.get_logger()

USUAL_PORT = 8411
_START_SECONDS = 15.0
_STOP_SECONDS = 3.0
_POLL_SECONDS = 0.05
_RELEASE_SECONDS = 2.0
_PAUSES = (0.0, 0.0, 1.0, 5.0, 15.0, 60.0)  # seconds before a start, after so many that failed in a row
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_", "TMPDIR", "PYTHON", "LD_LIBRARY_PATH")  # what a Python program reads
_MAX_LOG_BYTES = 4 * 1024 * 1024


class GatewayError(Exception):
    """There is no gateway now; the message says why."""


class _Record(Value):
    """What the next agent must know. The port is kept when the gateway is gone: others know it."""

    pid: int = Field(default=0, ge=0)
    birth: str = ""
    host: str = ""
    port: int = Field(default=0, ge=0, le=65_535)
    version: str = ""


def bind_address(address: str) -> str:
    """Where the gateway of a worker listens that others reach at `address`. Pure.

    A loopback address stays what it is: nobody else shall reach it. Otherwise everywhere: what others call this host
    may be a name, or an address that a router translates.
    """
    if is_loopback(address):
        return "127.0.0.1" if address.lower() == "localhost" else address
    return "::" if ":" in address else "0.0.0.0"  # noqa: S104 - this is the door for others, and it is guarded


class GatewayProcess:
    """One host's gateway. It outlives its agent; `ensure` is to be called every few seconds."""

    def __init__(self, folder: Path, bind_host: str, wanted_port: int, state_dir: Path) -> None:
        """`folder`: the mesh folder. `wanted_port` 0: USUAL_PORT, or where that is taken another, and then that one."""
        self._folder, self._host, self._wanted = folder.absolute(), bind_host, wanted_port
        self._record_file = state_dir.absolute() / "gateway.json"
        self._log_file = state_dir.absolute() / "gateway.log"
        self._unsaved: _Record | None = None  # what the disk did not take
        self._failures = 0
        self._not_before = 0.0
        self._lock = asyncio.Lock()

    async def ensure(self) -> int:
        """The port of a gateway that listens now: adopted, or started if there is none.

        Raises GatewayError: it cannot be started, or is not tried again yet.
        """
        async with self._lock:
            record = self._load()
            if await asyncio.to_thread(is_alive, record.pid, record.birth):
                if not self._must_go(record):
                    await asyncio.to_thread(self._turn_log_over)
                    return record.port
                log.info("gateway_replaced", pid=record.pid, version=record.version)
                await self._end(record.pid, record.birth)
            elif found := await asyncio.to_thread(find_marked, MARK, str(self._record_file)):
                await self._end(found, birth_of(found))  # started by an agent that died before it could say so
            elif record.pid:
                log.warning("gateway_gone", pid=record.pid, exit_code=reap(record.pid, record.birth))
            return await self._start(record)

    async def stop(self) -> None:
        """Ends the gateway, and with it all that goes through it. None there is fine."""
        async with self._lock:
            record = self._load()
            if is_alive(record.pid, record.birth):
                await self._end(record.pid, record.birth)
            if record.pid:
                self._save(record.model_copy(update={"pid": 0, "birth": ""}))

    def _must_go(self, record: _Record) -> bool:
        """Whether a gateway that lives is not the one that is wanted. One of another version waits for a quiet hour."""
        if record.host != self._host or (self._wanted and record.port != self._wanted):
            return True
        if record.version == VERSION:
            return False
        with contextlib.suppress(OSError):
            return not any(service.startswith("rpc/") for service in Grants(self._folder).all())
        return False

    async def _start(self, before: _Record) -> int:
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            raise GatewayError("the gateway ends again and again: it is started anew in a while, see gateway.log")
        try:
            record = await self._started(before)
        except (OSError, GatewayError) as error:
            self._failures += 1
            self._not_before = loop.time() + _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            raise GatewayError(str(error)) from error
        self._failures = 0
        log.info("gateway_started", pid=record.pid, host=record.host, port=record.port)
        return record.port

    async def _started(self, before: _Record) -> _Record:
        await asyncio.to_thread(self._turn_log_over)
        await self._until_released(before.port)
        port = self._choose_port(before)
        command = [sys.executable, "-P", "-m", "worker_agent.mesh.gateway", str(self._folder), self._host, str(port)]
        for folder in (self._folder, self._log_file.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
        # No await between the start and its record: no cancellation falls there.
        pid = spawn(command, environment | {MARK: str(self._record_file)}, self._log_file, self._folder)
        record = _Record(pid=pid, birth=birth_of(pid), host=self._host, port=port, version=VERSION)
        self._save(record)
        try:
            async with asyncio.timeout(_START_SECONDS):
                while await asyncio.to_thread(listening_port, pid) != port:
                    if not is_alive(pid, record.birth):
                        reap(pid, record.birth)
                        raise GatewayError(f"the gateway ended at once: {self._last_line()}")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            await self._end(pid, record.birth)
            raise GatewayError(f"the gateway did not listen within {_START_SECONDS:g} s") from error
        return record

    async def _until_released(self, port: int) -> None:
        """Waits a moment for the port that the gateway before had: others know it.

        A killed process counts as gone when its first thread is, and lets go of its port when the last one is.
        """
        deadline = asyncio.get_running_loop().time() + _RELEASE_SECONDS
        while port and not self._free(port) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)

    def _choose_port(self, before: _Record) -> int:
        """Raises GatewayError when the wanted one is taken."""
        for port in (self._wanted,) if self._wanted else (before.port or USUAL_PORT, USUAL_PORT, 0):
            if free := self._free(port):
                return free
        raise GatewayError(
            f"port {self._wanted} of {self._host} is taken: choose another for the gateway, "
            "--mesh-port or STOKER_WORKER__MESH_PORT"
        )

    def _free(self, port: int) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            with socket.create_server((self._host, port), family=family) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            return 0

    async def _end(self, pid: int, birth: str) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal_group(pid, number)
            deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
            while is_alive(pid, birth) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
            if not is_alive(pid, birth):
                break
        reap(pid, birth)

    def _load(self) -> _Record:
        if self._unsaved is not None:
            self._save(self._unsaved)
        if self._unsaved is not None:
            return self._unsaved
        try:
            return _Record.model_validate_json(self._record_file.read_bytes())
        except (OSError, ValidationError):
            return _Record()

    def _save(self, record: _Record) -> None:
        self._unsaved = None
        try:
            write_private(self._record_file, record.model_dump_json())
        except OSError as error:  # this agent remembers it; the next one finds it by its mark
            self._unsaved = record
            log.error("gateway_record_not_written", error=str(error))

    def _turn_log_over(self) -> None:
        with contextlib.suppress(OSError):
            rotate(self._log_file, _MAX_LOG_BYTES)

    def _last_line(self) -> str:
        try:
            lines = self._log_file.read_text(errors="replace").splitlines()
        except OSError:
            return "its log cannot be read"
        return lines[-1][:500] if lines else "it said nothing"
