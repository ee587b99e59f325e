"""All processes of one host that belong to instances. Satisfies `activities.ports.ProcessSupervisor`.

What is known of a process, and what `ensure_started` does with it:

1. an object in memory: its status is the answer, whatever it is;
2. a record on disk that says how it ended: EXITED;
3. a record whose process lives: it is adopted;
4. a record whose process is gone: it ended while no agent watched, EXITED;
5. a record without a process (its agent died while starting it) or an unreadable one: the process is looked for by
   the mark in its environment, and adopted. Not found: it was never started, or, unreadable, EXITED;
6. no record: it is started.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx
import structlog

from activities.ports import MainServerSpec, ProcessKey, ProcessPhase, ProcessSpec, ProcessStatus
from stoker.domain.base import InstanceId
from stoker.domain.measured_memory import MeasuredMemory
from worker_agent.draining import until_idle
from worker_agent.engine_metrics import EngineMetrics
from worker_agent.engine_programs import engine_environment
from worker_agent.engines import EngineProgram
from worker_agent.host_roles import host_roles
from worker_agent.logs import ROTATE_BYTES, EngineLogs, tail
from worker_agent.measuring import DeviceUse, measure_memory, no_devices
from worker_agent.pids import birth_of, find_marked, is_alive, reap
from worker_agent.processes import MARK, STOP_SECONDS, EngineProcess, last_words, spawn
from worker_agent.records import ProcessExit, ProcessRecord, RecordStore
from worker_agent.roles import Role, not_runnable

log = structlog.get_logger()

_HOUSEKEEPING_SECONDS = 5.0
_ENGINE_TIMEOUT_SECONDS = 2.0  # of one call to an engine's /health or /metrics
STALL_TIMEOUT_SECONDS = 60.0


class HostSupervisor:
    """Use as an async context manager: entering adopts what lives, leaving lets go of it without ending it."""

    def __init__(
        self,
        *,
        engine: EngineProgram,
        state_dir: Path,
        log_dir: Path,
        host: str,
        arguments: Callable[[MainServerSpec], Sequence[str]],
        engine_key: Callable[[ProcessKey], str],
        device_use: DeviceUse = no_devices,
        on_end: Callable[[], None] = lambda: None,
        stop_seconds: tuple[float, float, float] = STOP_SECONDS,
        rotate_bytes: int = ROTATE_BYTES,
        stall_timeout: float = STALL_TIMEOUT_SECONDS,
    ) -> None:
        """`host`: the address that `arguments`, the options of llama-server, makes engines listen on.

        `engine_key`: the key that a process asks for; the same for the same process after the agent's restart.
        `device_use`: what a process holds on the host's devices. `on_end` is called when a process has ended.
        `stall_timeout`: seconds without progress, at least, until a main server counts as frozen.
        The host's identity in the mesh, and what it lets others reach, lie in `state_dir`/mesh.
        """
        self._engine = engine
        self._state_dir = state_dir.absolute()
        self._records = RecordStore(self._state_dir / "processes")
        self._logs = EngineLogs(log_dir.absolute(), rotate_bytes=rotate_bytes)
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        self._arguments = arguments
        self._engine_key = engine_key
        self._device_use, self._on_end = device_use, on_end
        self._stop_seconds, self._stall_timeout = stop_seconds, stall_timeout
        self._roles: Mapping[str, Role]
        self._processes: dict[ProcessKey, EngineProcess] = {}
        self._lock = asyncio.Lock()  # one at a time looks for a process or starts one
        self._client: httpx.AsyncClient
        self._housekeeper: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        address = f"[{self._host}]" if ":" in self._host else self._host
        self._client = httpx.AsyncClient(base_url=f"http://{address}", timeout=_ENGINE_TIMEOUT_SECONDS, trust_env=False)
        self._roles = host_roles(
            engine=self._engine,
            client=self._client,
            arguments=self._arguments,
            engine_key=self._engine_key,
            records=self._records,
            links=self._state_dir / "links",
            mesh=self._state_dir / "mesh",
            stall_timeout=self._stall_timeout,
            stop_seconds=self._stop_seconds,
        )
        for key in self._records.keys():  # noqa: SIM118 - it is no mapping
            if key.role in self._roles:
                await self._find(key)
        self._housekeeper = asyncio.create_task(self._keep_house(), name="log rotation")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._housekeeper.cancel()
        await asyncio.gather(self._housekeeper, return_exceptions=True)
        await asyncio.gather(*(process.let_go() for process in self._processes.values()))
        await self._client.aclose()

    # --- the port -------------------------------------------------------------------------------------------

    async def ensure_started(self, spec: ProcessSpec) -> ProcessStatus:
        """See `ProcessSupervisor`. ProcessStartError: no_command_line, no_rpc_server, engine_not_runnable, …"""
        role = self._roles[spec.key.role]
        for left in reversed(range(role.tries)):
            async with self._lock:
                process = await self._find(spec.key) or self._start(spec)
            if not left or not await _failed_to_begin(process, role):
                break
            await self._forget(process)
        return process.status

    async def watch(self, key: ProcessKey) -> AsyncGenerator[ProcessStatus, None]:
        """See `ProcessSupervisor`. Of a process that nobody started here, EXITED is all there is to see."""
        async with self._lock:
            process = await self._find(key)
        if process is None:
            yield ProcessStatus(phase=ProcessPhase.EXITED, cause="there is no such process on this host")
            return
        async for status in process.changes():
            yield status

    async def measure(self, key: ProcessKey) -> MeasuredMemory | None:
        """See `ProcessSupervisor`."""
        process = self._processes.get(key)
        if process is None or process.status.phase is not ProcessPhase.READY:
            return None
        return await measure_memory(process.log_file, process.status.pid, self._device_use)

    async def drain(self, key: ProcessKey, settle_seconds: float, timeout_seconds: float) -> bool:
        """See `ProcessSupervisor`. A process that is not READY has no requests; one that ends has none left."""
        process = self._processes.get(key)
        if process is None or process.status.phase is not ProcessPhase.READY:
            return True
        try:
            async with asyncio.timeout(settle_seconds + timeout_seconds):
                await until_idle(process, EngineMetrics(self._client, self._engine_key), settle_seconds)
        except TimeoutError:
            return False
        return True

    async def kill(self, key: ProcessKey) -> None:
        """See `ProcessSupervisor`. Also forgets the process. Raises TimeoutError when it cannot be killed."""
        async with self._lock:
            process = await self._find(key)
        if process is None:
            return
        await process.stop()
        await self._forget(process)

    # --- for the agent --------------------------------------------------------------------------------------

    def statuses(self) -> dict[ProcessKey, ProcessStatus]:
        """What this host knows of its processes, those included that ended and were not killed or reaped yet."""
        return {key: process.status for key, process in self._processes.items()}

    async def reap(
        self, keep: Collection[ProcessKey], among: Collection[ProcessKey] | None = None
    ) -> tuple[ProcessKey, ...]:
        """Kills and forgets the processes that are not in `keep`; returns which. One that cannot be killed is logged.

        `among` (None: all): those that the question behind `keep` was about; its answer says nothing of younger ones.
        """
        doomed = tuple(key for key in self._processes if (among is None or key in among) and key not in keep)
        await asyncio.gather(*(self._kill_or_say(key) for key in doomed))
        return tuple(key for key in doomed if key not in self._processes)

    async def read_log(
        self, instance_id: InstanceId, incarnation: int | None, tail_lines: int, role: str = "main"
    ) -> list[str]:
        """The last lines of an incarnation's log (None: the newest). Raises LookupError."""
        path = self._logs.find(instance_id, incarnation, role)
        return await asyncio.to_thread(self._logs.read, path, tail_lines)

    async def follow_log(
        self, instance_id: InstanceId, incarnation: int | None, tail_lines: int, role: str = "main"
    ) -> AsyncGenerator[str, None]:
        """The last lines of an incarnation's log, then new ones until its process has ended. Raises LookupError."""
        path = self._logs.find(instance_id, incarnation, role)

        def ended() -> bool:
            writers = (one for one in self._processes.values() if one.log_file == path)
            return all(writer.ended.is_set() for writer in writers)

        async for line in self._logs.follow(path, tail_lines, ended):
            yield line

    async def _kill_or_say(self, key: ProcessKey) -> None:
        try:
            await self.kill(key)
        except TimeoutError as error:
            log.error("process_not_killed", process=self._logs.path(key).stem, error=str(error))

    # --- one process ----------------------------------------------------------------------------------------

    async def _find(self, key: ProcessKey) -> EngineProcess | None:
        """What there is of a process, by the numbers of this module's docstring; None: start it."""
        if key in self._processes:
            return self._processes[key]
        record = self._records.load(key)
        if record is None:
            return None
        adopted = record.exit is None
        if record.exit is None and not is_alive(record.pid, record.birth):
            if record.pid > 0:
                code, role = reap(record.pid, record.birth), self._roles[key.role]
                end = role.explain(record, last_words(self._logs.path(key), record), code, stopped=False)
                record, adopted = record.model_copy(update={"exit": end}), False
            elif pid := await asyncio.to_thread(find_marked, MARK, str(self._records.path(key))):
                record = record.model_copy(update={"pid": pid, "birth": birth_of(pid), "damaged": False})
            elif record.damaged:
                lost = ProcessExit(cause="its state file was damaged, and no process of this host bears its mark")
                record, adopted = record.model_copy(update={"exit": lost, "damaged": False}), False
            else:
                return None
            self._records.keep(record)
        log.info("process_found", process=self._logs.path(key).stem, pid=record.pid, lives=record.exit is None)
        return self._follow(record, adopted=adopted)

    def _start(self, spec: ProcessSpec) -> EngineProcess:
        """Starts the process. Without an await, so that no cancellation falls between the start and its record."""
        key, program = spec.key, ""
        log_file = self._logs.path(key)
        try:
            command, more, record = self._roles[key.role].launch(spec)
            program = command[0]
            environment = {**engine_environment(os.environ), MARK: str(self._records.path(key)), **more}
            self._records.save(record)
            pid = spawn(command, environment, log_file, folder=self._records.folder)
        except OSError as error:
            self._records.forget(key)
            raise not_runnable(error, program) from error
        record = record.model_copy(update={"pid": pid, "birth": birth_of(pid)})
        self._records.keep(record)  # where that fails, the next agent finds the process by its mark
        log.info("process_started", process=log_file.stem, pid=pid)
        return self._follow(record, adopted=False)

    def _follow(self, record: ProcessRecord, *, adopted: bool) -> EngineProcess:
        role = self._roles[record.key.role]
        process = EngineProcess(
            record,
            adopted=adopted,
            records=self._records,
            log_file=self._logs.path(record.key),
            readiness=role.readiness(record),
            guard=role,
            explain=role.explain,
            on_ready=role.opened,
            on_end=self._has_ended,
            stop_seconds=role.stop_seconds,
        )
        self._processes[record.key] = process
        if record.exit is not None:
            self._close(record.key)  # the agent that saw it end may not have come to that
        process.follow()
        return process

    def _has_ended(self, key: ProcessKey) -> None:
        self._close(key)
        self._on_end()

    def _close(self, key: ProcessKey) -> None:
        try:
            self._roles[key.role].closed(key)
        except OSError as error:
            log.error("process_not_closed", process=self._logs.path(key).stem, error=str(error))

    async def _forget(self, process: EngineProcess) -> None:
        if self._processes.get(process.key) is process:
            del self._processes[process.key]
            self._records.forget(process.key)
            await process.let_go()

    async def _keep_house(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._logs.prune, tuple(self._processes))
                for process in list(self._processes.values()):
                    if not process.ended.is_set() and await asyncio.to_thread(self._logs.rotate, process.log_file):
                        log.info("log_rotated", path=str(process.log_file))
            except OSError as error:  # a full disk, say: the engines run on
                log.warning("log_rotation_failed", error=str(error))
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)


async def _failed_to_begin(process: EngineProcess, role: Role) -> bool:
    """Whether it ended before it was ready, for a reason that another start gets over."""
    async for status in process.changes():
        if status.phase in (ProcessPhase.READY, ProcessPhase.EXITED):
            break
    if process.status.phase is not ProcessPhase.EXITED or process.status.port:
        return False
    return role.wants_another_try(await asyncio.to_thread(tail, process.log_file, 20))
