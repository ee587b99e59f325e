"""One place among the processes that answer on the API's port: a process in it, replaced when it dies or when told."""

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress

import structlog

from entrypoints.inherited import LISTENER_FLAG, PARENT_FLAG, READY

log = structlog.get_logger()

READY_WITHIN_SECONDS = 60.0
STEADY_SECONDS = 30.0
END_WITHIN_SECONDS = 5.0  # beyond the time for what is being answered

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class StartError(Exception):
    """The process ended before it answered, or did not answer in time."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class _Child:
    """A process, and the socket whose end tells it that we are gone."""

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        self.process, self._line = process, line
        line.setblocking(False)

    async def answers(self) -> None:
        """Returns when it has said so. Raises StartError."""
        try:
            async with asyncio.timeout(READY_WITHIN_SECONDS):
                if await asyncio.get_running_loop().sock_recv(self._line, len(READY)) == READY:
                    return
                raise StartError(await self.process.wait() or 1)  # it has closed its end
        except TimeoutError:
            log.error("process_does_not_answer", pid=self.process.pid, seconds=READY_WITHIN_SECONDS)
            await self.end(0.0)
            raise StartError(1) from None

    async def ended(self) -> int:
        """Its exit code, once it has one."""
        code = await self.process.wait()
        self._line.close()
        return code

    async def end(self, within: float) -> None:
        """SIGTERM, `within` seconds to answer what it was asked, SIGKILL."""
        for number, seconds in ((signal.SIGTERM, within), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), seconds)
                break
            log.warning("process_does_not_stop", pid=self.process.pid)
        self._line.close()


class Served:
    """One place; at most one process in it is not on its way out."""

    def __init__(self, number: int, command: Sequence[str], listener: socket.socket, drain_seconds: float) -> None:
        """`command` starts it, but for its descriptors; `drain_seconds`: what it does to end once it was told to."""
        self._number, self._command, self._listener = number, command, listener
        self._end_seconds = drain_seconds + END_WITHIN_SECONDS
        self._child: _Child | None = None
        self._died = asyncio.Event()
        self._turn = asyncio.Lock()  # of whoever puts a process here: of two, one would be nobody's
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts a process and waits until it answers; from then on the place is its. Raises StartError."""
        child = await self._started()
        try:
            await child.answers()
        except BaseException:  # cancelled too: nobody else knows of it
            await child.end(0.0)
            raise
        self._child = child
        self._run(self._watch(child))
        log.info("process_answers", number=self._number, pid=child.process.pid)

    def fill(self) -> None:
        """Has `keep` start a first process here. One that does not come up is tried again: the others serve."""
        self._died.set()

    async def keep(self) -> None:
        """Starts another one whenever the process dies, until cancelled."""
        pause, loop = _FIRST_PAUSE, asyncio.get_running_loop()
        while True:
            since = loop.time()
            await self._died.wait()
            pause = _FIRST_PAUSE if loop.time() - since > STEADY_SECONDS else pause
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
            with suppress(StartError):  # it has said why; the next try tells whether that has passed
                async with self._turn:
                    if self._child is None:  # else `renew` was quicker
                        await self.start()
                    self._died.clear()

    async def renew(self) -> None:
        """Starts another process, and tells the old one to stop once the new one answers; else the old one stays."""
        async with self._turn:
            old = self._child
            try:
                await self.start()
            except StartError as error:
                log.error("process_not_replaced", number=self._number, reason=str(error))
                return
            if old is not None:
                self._run(old.end(self._end_seconds))

    async def end(self) -> None:
        """Ends the process, and waits for those that are on their way out."""
        child, self._child = self._child, None
        if child is not None:
            self._run(child.end(self._end_seconds))
        await asyncio.gather(*self._tasks)

    async def _watch(self, child: _Child) -> None:
        code = await child.ended()
        if self._child is child:
            log.warning("process_died", number=self._number, pid=child.process.pid, exit_code=code)
            self._child = None
            self._died.set()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _started(self) -> _Child:
        """Raises StartError where the system has no room for another process just now: the others serve on."""
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    return _Child(await self._executed(theirs), ours)
                except BaseException:
                    ours.close()
                    raise
        except OSError as error:
            log.error("process_not_started", number=self._number, error=str(error))
            raise StartError(1) from error

    async def _executed(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        descriptors = (self._listener.fileno(), theirs.fileno())
        return await asyncio.create_subprocess_exec(
            *self._command,
            *(LISTENER_FLAG, str(descriptors[0]), PARENT_FLAG, str(descriptors[1])),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=descriptors,
            env=dict(os.environ),
            start_new_session=True,  # Ctrl-C on the terminal is the parent's: it stops them in order
        )
