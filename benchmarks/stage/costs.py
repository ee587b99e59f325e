"""What the system's processes cost: CPU and memory, part by part."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import psutil

from stoker.domain.units import MIB
from tests.e2e.system import System

_NOT_BUSY = {"idle", "iowait", "steal", "guest", "guest_nice"}  # a guest's time is in user's and nice's already


class Used(NamedTuple):
    """CPU until a moment."""

    at: float  # monotonic seconds
    busy: float  # seconds of CPU of the whole machine
    cpu: Mapping[str, Mapping[int, float]]  # seconds, by part and its first process


class Costs:
    """The parts of a running system, each a process with all its children."""

    def __init__(self, system: System, database: psutil.Process | None) -> None:
        """`database`: the server's first process; None where the database is a file."""
        pids = system.pids()
        names = {"temporal": "temporal", "control_plane": "control-plane", "api": "server"}
        self._roots = {part: [psutil.Process(pids[name])] for part, name in names.items()}
        if database is not None:
            self.add("postgresql", database)

    def add(self, part: str, process: psutil.Process) -> None:
        """From here on `process` counts as (one more of) that part."""
        self._roots.setdefault(part, []).append(process)

    def used(self) -> Used:
        """CPU until now, that of children with it, even if they ended."""
        times = psutil.cpu_times()._asdict().items()
        busy = sum(seconds for what, seconds in times if what not in _NOT_BUSY)
        return Used(time.monotonic(), busy, self._measured(lambda one: sum(one.cpu_times()[:4])))

    def percent_since(self, before: Used) -> dict[str, float]:
        """Percent of a core that each part took since then, and `others`: all else on this machine, this program too.

        A process that ended meanwhile counts to the others.
        """
        after = self.used()
        taken = {
            part: sum(now - before.cpu[part].get(pid, 0.0) for pid, now in roots.items())
            for part, roots in after.cpu.items()
        }
        taken["others"] = max(0.0, after.busy - before.busy - sum(taken.values()))
        return {part: 100 * seconds / (after.at - before.at) for part, seconds in taken.items()}

    async def percent_of_core(self, seconds: float) -> dict[str, float]:
        """What each part takes over so long a time from now."""
        before = self.used()
        await asyncio.sleep(seconds)
        return self.percent_since(before)

    def memory_mib(self) -> dict[str, int]:
        """Memory of each part that no other process shares."""
        found = self._measured(lambda one: one.memory_full_info().uss)
        return {part: round(sum(roots.values()) / MIB) for part, roots in found.items()}

    def _measured(self, measure: Callable[[psutil.Process], float]) -> dict[str, dict[int, float]]:
        """By part and first process: of it and all its children together. One that has ended is left out."""
        found: dict[str, dict[int, float]] = {part: {} for part in self._roots}
        for part, roots in self._roots.items():
            for root in roots:
                with suppress(psutil.NoSuchProcess):
                    for process in (root, *root.children(recursive=True)):
                        with suppress(psutil.NoSuchProcess):  # one of PostgreSQL's, which come and go
                            found[part][root.pid] = found[part].get(root.pid, 0.0) + measure(process)
        return found


def cores(percent: Mapping[str, float]) -> dict[str, float]:
    """Of percent of a core, for people."""
    return {name: round(value / 100, 3) for name, value in percent.items()}


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """For people: two digits."""
    return {name: round(value, 2) for name, value in numbers.items()}
