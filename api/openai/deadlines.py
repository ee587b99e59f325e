"""When something has taken too long: one timer for all that may, instead of one for each, made and cancelled."""

import asyncio
import math
from typing import Protocol

_RESOLUTION_SECONDS = 0.001
"""Of uvloop's clock and timers: one that is asked for a moment fires up to so much earlier, and would be asked for what
is left of it again and again."""


class Watched(Protocol):
    """Something that must end in time."""

    def look(self, now: float) -> float:
        """Ends what is late. Returns when to look again, by the loop's clock; infinity: there is no need to."""
        ...


class Deadlines:
    """Looks at all that is watched when the earliest of it could be late. For one event loop."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf  # when the timer looks

    def watch(self, one: Watched, due: float) -> None:
        """From now on `one` is looked at when it is `due`, or sooner. May be said again, when it is due sooner."""
        self._watched.add(one)
        if due < self._due:
            self._look_at(due)

    def forget(self, one: Watched) -> None:
        """It is over. The timer stays: it most likely serves the next one."""
        self._watched.discard(one)

    def close(self) -> None:
        """Looks at nothing any more."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, math.inf

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due + _RESOLUTION_SECONDS, self._look)

    def _look(self) -> None:
        self._timer, self._due = None, math.inf
        now = asyncio.get_running_loop().time()
        earliest = min((one.look(now) for one in tuple(self._watched)), default=math.inf)
        if earliest < self._due:  # what was ended may have led to something new that is watched already
            self._look_at(earliest)
