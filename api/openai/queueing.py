"""How many requests may wait for a deployment: beyond its slots, and past a bound not at all.

Requests wait at the engines, which take the next one the moment that a slot is free; here they are counted. Those that
wait for a first replica (`waking`) are in the same line: it has no slot then.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from api.openai.availability import queue_full
from api.openai.router import ModelRoute

_SMOOTHING = 0.2  # the share of the newest interval in the mean
_UNKNOWN_INTERVAL = 0.5  # seconds from one request's end to the next, until some were seen


class Asked(NamedTuple):
    """What is asked of a deployment."""

    busy: int  # requests in work, or that wait
    total: int  # that ever came


class _Line:
    """The requests of one deployment that are in work, or wait."""

    __slots__ = ("asked", "bound", "ended_at", "inside", "interval", "route", "slots")

    def __init__(self) -> None:
        self.route: ModelRoute | None = None
        self.asked = 0  # requests that ever came in
        self.inside = self.slots = self.bound = 0
        self.interval: float | None = None  # seconds, mean, from one request's end to the next while some wait
        self.ended_at: float | None = None  # when the last one ended, if some waited then


class Queues:
    """The lines of all deployments. For one event loop."""

    def __init__(self, clock: Callable[[], float], processes: int = 1) -> None:
        """`clock` returns seconds that only grow. Each of `processes` takes its share of the slots and the queue."""
        self._clock, self._processes = clock, processes
        self._lines: dict[str, _Line] = {}

    def enter(self, route: ModelRoute) -> None:
        """One more request for a deployment; `leave` must follow. Raises APIError (429)."""
        line = self._lines.get(route.name)
        if line is None:
            line = self._lines[route.name] = _Line()
        if line.route is not route:
            self._note(line, route)
        line.asked += 1
        if line.inside >= line.bound:
            waiting = max(0, line.inside - line.slots)
            interval = _UNKNOWN_INTERVAL if line.interval is None else line.interval
            raise queue_full(route.name, waiting, interval * (waiting / 2 + 1))
        line.inside += 1

    def changed(self, route: ModelRoute) -> None:
        """Whoever is in the deployment's line is served as `route` says now."""
        line = self._lines[route.name]
        if line.route is not route:
            self._note(line, route)

    def _note(self, line: _Line, route: ModelRoute) -> None:
        slots = sum(replica.slots for replica in route.replicas)
        line.route, line.slots = route, -(-slots // self._processes)
        line.bound = line.slots - (-route.queue // self._processes)

    def leave(self, name: str) -> None:
        """A request that `enter` let in is over."""
        line = self._lines[name]
        line.inside -= 1
        # Nobody waited, or there was no slot: how often requests end then says when they come, or how patient they are.
        if line.inside < line.slots or not line.slots:
            line.ended_at = None
            return
        now = self._clock()
        if line.ended_at is not None:
            newest = now - line.ended_at
            line.interval = newest if line.interval is None else line.interval + _SMOOTHING * (newest - line.interval)
        line.ended_at = now

    def waiting(self) -> Mapping[str, int]:
        """How many requests wait, by deployment. May be asked from another thread."""
        return {name: max(0, line.inside - line.slots) for name, line in tuple(self._lines.items())}

    def asked(self) -> Mapping[str, Asked]:
        """What is asked of each deployment. May be asked from another thread."""
        return {name: Asked(line.inside, line.asked) for name, line in tuple(self._lines.items())}

    def forget_all_but(self, names: Mapping[str, object]) -> None:
        """Drops the lines of deployments that are gone, once they are empty."""
        for name in [known for known, line in self._lines.items() if known not in names and not line.inside]:
            del self._lines[name]
