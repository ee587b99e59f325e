"""What the operating system knows of a process: whether it is still the same one, when it ends, where it listens."""

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

_POLL_SECONDS = 0.1  # where the kernel cannot tell us of a process's end


def birth_of(pid: int) -> str:
    """What tells a process from any other that had or will have its pid; empty: there is none.

    On Linux the boot id and the start time in clock ticks (/proc/PID/stat, field 22; proc_pid_stat(5)). Unlike
    psutil's create_time, which is used elsewhere, they stay the same when the host's clock is set. Raises OSError
    when the kernel does not say (too many open files, say): that is no answer, and not the same as "none".
    """
    return _look(pid)[0]


def is_alive(pid: int, birth: str) -> bool:
    """Whether the process of that pid and birth still runs. A zombie does not. Raises OSError as `birth_of` does."""
    return pid > 0 and birth != "" and _look(pid) == (birth, True)


if sys.platform == "linux":

    def _look(pid: int) -> tuple[str, bool]:
        """The birth of the process and whether it runs; a zombie has a birth still."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return "", False
        fields = stat.rpartition(")")[2].split()  # the name, in brackets, may hold spaces: state is the first after it
        return f"{_boot_id()}:{fields[19]}", fields[0] not in "ZX"

    @functools.cache
    def _boot_id() -> str:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except FileNotFoundError:  # hidden by the container
            return ""

else:

    def _look(pid: int) -> tuple[str, bool]:
        """The birth of the process and whether it runs; a zombie has a birth still."""
        try:
            process = psutil.Process(pid)
            return f"{process.create_time():.6f}", process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return "", False


def find_marked(variable: str, value: str) -> int:
    """The pid of this user's session leader that was started with `variable=value` in its environment; 0: none."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value and os.getsid(process.pid) == process.pid:
                return process.pid
    return 0


def listening_port(pid: int) -> int:
    """The lowest TCP port that the process listens on; 0 while there is none. The kernel's word, not the log's."""
    try:
        sockets = psutil.Process(pid).net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return 0
    return min((one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN), default=0)


def resident_bytes(pid: int) -> int:
    """Bytes of RAM that the process holds, mapped files included; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):
        return 0


def signal_group(pid: int, number: signal.Signals) -> None:
    """Sends a signal to the process group that `pid` leads. A group that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses when only zombies are left
        os.killpg(pid, number)


def reap(pid: int, birth: str) -> int | None:
    """The exit code (negative: the signal that ended it) of an ended child of ours; None for any other process."""
    if birth_of(pid) != birth:
        return None
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


class ExitWatch:
    """Calls `ended` once, as soon as the process of that pid and birth has ended, whoever's child it is.

    Waits on a pidfd where the kernel has them (Linux 5.3), else looks ten times a second.
    """

    def __init__(self, pid: int, birth: str, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self._poll: asyncio.Task[None] | None = None
        pinned = False
        with contextlib.suppress(OSError):  # it is gone, or the kernel or a sandbox knows no pidfds
            self._pidfd = _pidfd_open(pid)
            pinned = is_alive(pid, birth)  # asked after opening: from there on its pid cannot become another's
        if pinned:
            self._loop.add_reader(self._pidfd, self._fire)
        else:
            self._poll = self._loop.create_task(self._until_gone(pid, birth))

    def close(self) -> None:
        """Stops watching; nothing is called afterwards. May be repeated."""
        if self._poll is not None:
            self._poll.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _until_gone(self, pid: int, birth: str) -> None:
        while self._may_live(pid, birth):  # noqa: ASYNC110 - nobody would set an Event
            await asyncio.sleep(_POLL_SECONDS)
        self._fire()

    def _may_live(self, pid: int, birth: str) -> bool:
        try:
            return is_alive(pid, birth)
        except OSError:
            return True

    def _fire(self) -> None:
        self.close()
        self._ended()


def _pidfd_open(pid: int) -> int:
    if sys.platform == "linux":
        return os.pidfd_open(pid)
    raise OSError("pidfds are Linux's")
