"""One process of this host: started or adopted, watched, stopped.

    STARTING ──listens──► LOADING ──/health 200──► READY
        └──────────────────────┴──────────────────────┴──ends──► EXITED

A process belongs to no agent: it has a session of its own and outlives the agent that started it. What the next one
must know is in its record. What kinds of processes there are, and how they differ: see `roles`.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from activities.ports import ProcessKey, ProcessPhase, ProcessStatus
from stoker.domain.base import Value
from stoker.domain.units import KIB
from worker_agent.logs import head, tail
from worker_agent.pids import ExitWatch, reap, signal_group
from worker_agent.records import ProcessExit, ProcessRecord, RecordStore

log = structlog.get_logger()

MARK = "STOKER_STATE_FILE"
"""In every engine's environment: the path of its record. Finds a process whose record lost the pid."""

_FAST_POLL_SECONDS, _SLOW_POLL_SECONDS = 0.05, 0.5  # between two looks at a process that is not ready yet
_FAST_POLLS = 200
_STALL_SECONDS = 30.0  # without any progress, until that is logged; again at twice the time, and so on
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
STOP_SECONDS = (3.0, 2.0, 30.0)
"""How long each of SIGTERM, SIGTERM again (llama-server then exits without waiting) and SIGKILL is given.

After the first, an idle llama-server ends at once, and one that streams an answer computes no more, but waits for its
client to hang up (seen for ten minutes): nothing is won by waiting long for that.
"""


class Observation(Value):
    """What one look at a process saw."""

    port: int = 0  # it listens on
    ports: tuple[int, ...] = ()  # all of them, of a process with several
    healthy: bool = False  # it does what it is for: /health answered 200, of a main server
    loaded: float = 0.0  # share of the model that is in memory
    exit: ProcessExit | None = None


def advance(status: ProcessStatus, seen: Observation) -> ProcessStatus:
    """The status after `seen`. Pure. A process never goes back a phase, and nothing follows EXITED."""
    if status.phase is ProcessPhase.EXITED:
        return status
    if seen.exit is not None:
        end = {"exit_code": seen.exit.code, "cause": seen.exit.cause, "retryable": seen.exit.retryable}
        end |= {"worker": seen.exit.worker, "frozen": seen.exit.frozen}
        return status.model_copy(update={"phase": ProcessPhase.EXITED, **end})
    port = seen.port or status.port
    if status.phase is ProcessPhase.READY or (seen.healthy and port):
        ports = seen.ports or status.ports
        return status.model_copy(update={"phase": ProcessPhase.READY, "port": port, "ports": ports, "progress": 1.0})
    phase = ProcessPhase.LOADING if port else status.phase
    progress = max(status.progress, min(0.99, round(seen.loaded, 2)))
    return status.model_copy(update={"phase": phase, "port": port, "progress": progress})


def spawn(command: Sequence[str], environment: Mapping[str, str], log_file: Path, folder: Path) -> int:
    """Starts a detached process that appends to `log_file`; returns its pid. Raises OSError.

    The log begins with the time and the command: no secrets in it. SIGPIPE stays ignored in the process
    (restore_signals): an engine must outlive a client that hangs up.
    """
    output = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.write(output, f"{datetime.now(UTC).isoformat(timespec='seconds')} {shlex.join(command)}\n".encode())
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            restore_signals=False,
        )
    finally:
        os.close(output)
    process.returncode = 0  # we watch and reap it by pid; without this, Popen would, whenever it is collected
    return process.pid


class Readiness(Protocol):
    """How a process is seen to become ready."""

    async def look(self, pid: int, port: int) -> tuple[Observation, str]:
        """What is seen of it now, and what is still waited for (empty: nothing). `port`: where it was seen to listen.

        Raises OSError where it cannot be seen now.
        """
        ...


class Explain(Protocol):
    """How a process ended, by lines of its log (the beginning if it was never ready, else the end) and its code."""

    def __call__(
        self, record: ProcessRecord, lines: Sequence[str], code: int | None, *, stopped: bool
    ) -> ProcessExit: ...


class Guard(Protocol):
    """Stays with a process that is ready, and knows when it must be ended."""

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """Why it must be ended; returns only when it must."""
        ...


class EngineProcess:
    """One process, from when it is known to when it is forgotten. Lives on the event loop that made it."""

    def __init__(
        self,
        record: ProcessRecord,
        *,
        adopted: bool,
        records: RecordStore,
        log_file: Path,
        readiness: Readiness,
        guard: Guard,
        explain: Explain,
        on_ready: Callable[[ProcessRecord], None],
        on_end: Callable[[ProcessKey], None],
        stop_seconds: tuple[float, float, float] = STOP_SECONDS,
    ) -> None:
        """`on_ready` is called when it is, or was before; `on_end` once it has ended. Call `follow` next."""
        self.key: ProcessKey = record.key
        self.log_file = log_file
        self.ended = asyncio.Event()
        self._record = record
        self._records = records
        self._look = readiness.look
        self._guard, self._explain = guard, explain
        self._tell_ready, self._tell_end = on_ready, on_end
        self._stop_seconds = stop_seconds
        self._changed = asyncio.Event()
        self._watch: ExitWatch | None = None
        self._readiness: asyncio.Task[None] | None = None
        self._guarding: asyncio.Task[None] | None = None
        self._fault: ProcessExit | None = None
        self._stopping: asyncio.Task[None] | None = None
        start = ProcessStatus(phase=ProcessPhase.STARTING, pid=record.pid, adopted=adopted)
        known = Observation(port=record.port, ports=record.ports, healthy=record.port > 0)
        self._status = advance(advance(start, known), Observation(exit=record.exit))
        if record.exit is not None:
            self.ended.set()

    @property
    def status(self) -> ProcessStatus:
        """The status now."""
        return self._status

    def follow(self) -> None:
        """Watches the process from here on: its end, and until then its way to READY."""
        if self.ended.is_set():
            return
        self._watch = ExitWatch(self._record.pid, self._record.birth, self._on_end)
        if self._status.phase is ProcessPhase.READY:
            self._be_ready()
        else:
            self._readiness = asyncio.create_task(self._until_ready(), name=f"readiness of {self.log_file.stem}")
            self._readiness.add_done_callback(_tell_failure)

    async def let_go(self) -> None:
        """Stops watching; the process runs on."""
        if self._watch is not None:
            self._watch.close()
        tasks = [task for task in (self._readiness, self._guarding, self._stopping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def changes(self) -> AsyncGenerator[ProcessStatus, None]:
        """The status now, then each time it differs from what was yielded last; EXITED comes last. For many readers."""
        last: ProcessStatus | None = None
        while True:
            changed, status = self._changed, self._status
            if status != last:
                yield status
                last = status
                if status.phase is ProcessPhase.EXITED:
                    return
            else:
                await changed.wait()

    async def stop(self) -> None:
        """Ends the whole process group: SIGTERM, SIGTERM, SIGKILL (STOP_SECONDS). Returns when the process is gone.

        Goes on when the caller is cancelled. Raises TimeoutError when the process outlives even SIGKILL.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._stop(), name=f"stop of {self.log_file.stem}")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        for number, seconds in zip(_STOP_SIGNALS, self._stop_seconds, strict=True):
            if self.ended.is_set():
                return
            if self._fault is not None and number is not signal.SIGKILL:
                continue  # it is broken: there is no good order to end it in
            signal_group(self._record.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), seconds)
        if not self.ended.is_set():
            raise TimeoutError(f"process {self._record.pid} outlives SIGKILL: the kernel holds it")

    def _see(self, seen: Observation) -> None:
        before, self._status = self._status, advance(self._status, seen)
        if self._status != before:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _keep(self, record: ProcessRecord) -> None:
        self._record = record
        self._records.keep(record)

    def _on_end(self) -> None:
        pid = self._record.pid
        signal_group(pid, signal.SIGKILL)  # what it left behind; before reaping, while its pid cannot be another's
        code = reap(pid, self._record.birth)
        if self._fault is not None:
            end = self._fault.model_copy(update={"code": code})
        else:
            stopped = self._stopping is not None
            end = self._explain(self._record, last_words(self.log_file, self._record), code, stopped=stopped)
        self._keep(self._record.model_copy(update={"exit": end}))
        for task in (self._readiness, self._guarding):
            if task is not None:
                task.cancel()
        self.ended.set()
        self._see(Observation(exit=end))
        self._tell_end(self.key)
        log.info("process_ended", process=self.log_file.stem, pid=pid, exit_code=code, cause=end.cause)

    async def _until_ready(self) -> None:
        """Looks at the process until it is ready; it has no deadline, since a load may take an hour.

        Where nothing moves for long it says so, and what it waits for. A process that ends cancels this.
        """
        loop = asyncio.get_running_loop()
        pid = self._record.pid
        moved_at, patience, polls = loop.time(), _STALL_SECONDS, 0
        while True:
            before = self._status
            try:
                seen, waits_for = await self._look(pid, before.port)
            except OSError as error:
                seen, waits_for = Observation(), str(error)
            self._see(seen)
            if self._status.phase is ProcessPhase.READY:
                break
            if self._status != before:
                moved_at, patience = loop.time(), _STALL_SECONDS
            elif loop.time() - moved_at > patience:
                log.warning("process_not_ready", process=self.log_file.stem, waits_for=waits_for, seconds=patience)
                patience *= 2
            polls += 1
            await asyncio.sleep(_FAST_POLL_SECONDS if polls < _FAST_POLLS else _SLOW_POLL_SECONDS)
        self._keep(self._record.model_copy(update={"port": self._status.port, "ports": self._status.ports}))
        log.info("process_ready", process=self.log_file.stem, pid=pid, port=self._status.port)
        self._be_ready()

    def _be_ready(self) -> None:
        try:
            self._tell_ready(self._record)
        except OSError as error:  # a full disk, say: whoever cannot reach it will say so
            log.error("process_not_opened", process=self.log_file.stem, error=str(error))
        self._guarding = asyncio.create_task(self._be_guarded(), name=f"guard of {self.log_file.stem}")
        self._guarding.add_done_callback(_tell_failure)

    async def _be_guarded(self) -> None:
        """Ends the process as soon as its guard says that it must be ended, and why."""
        fault = await self._guard.fault(self._record)
        self._fault = fault
        log.error("process_condemned", process=self.log_file.stem, pid=self._record.pid, cause=fault.cause)
        await self.stop()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("process_watch_failed", task=task.get_name(), exc_info=error)


def last_words(log_file: Path, record: ProcessRecord) -> list[str]:
    """What tells of a process's end in its log: the beginning if it was never ready, else the end."""
    try:
        return tail(log_file, 400, within=128 * KIB) if record.port > 0 else head(log_file, 4000)
    except OSError as error:
        log.warning("process_log_not_readable", path=str(log_file), error=str(error))
        return []
