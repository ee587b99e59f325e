"""A fleet in virtual time: instances arrive, wait, are woken and end, as the claiming transaction would have it."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, place, wakeable
from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS, Waiting, holders
from stoker.domain.placement.types import Placement, PlacementRequest
from tests.stoker.domain.placement.audit import audit


@dataclass(frozen=True)
class Arrival:
    """One instance: when it comes, and for how long it runs once it is placed."""

    at: float
    request: PlacementRequest
    runs: float
    priority: int = 0


@dataclass
class Stream:
    """What happened; all times in seconds."""

    fleet: Fleet
    hold_seconds: float = PENDING_HOLD_SECONDS
    placed: dict[str, float] = field(default_factory=dict)  # when, by instance
    ends: dict[str, float] = field(default_factory=dict)  # when it does, of those that were placed
    woken_in_vain: list[tuple[float, str]] = field(default_factory=list)
    _waiting: dict[str, Arrival] = field(default_factory=dict)

    def run(self, arrivals: Sequence[Arrival], until: str) -> None:
        """Goes on until the instance `until` is placed, or nothing more can happen."""
        events = [(arrival.at, 1, number) for number, arrival in enumerate(arrivals)]
        heapq.heapify(events)
        running: dict[int, Placement] = {}
        while events and until not in self.placed:
            now, _, number = heapq.heappop(events)
            arrival = arrivals[number]
            name = arrival.request.instance_id
            started: list[str] = []
            if number in running:
                self.fleet = self.fleet.minus(claims_of(running.pop(number), name, 1))
                started += self._wake(now)
            else:
                self._waiting[name] = arrival
                started.append(name)
            for one in started:
                chosen = self._waiting[one]
                if (placement := self._place(now, chosen)) is not None:
                    index = arrivals.index(chosen)
                    running[index] = placement
                    heapq.heappush(events, (now + chosen.runs, 0, index))
                elif one != name:
                    self.woken_in_vain.append((now, one))

    def waiting(self, now: float, without: str = "") -> list[Waiting]:
        """Those that wait now."""
        return [
            Waiting(request=one.request, priority=one.priority, waited_seconds=now - one.at)
            for name, one in self._waiting.items()
            if name != without
        ]

    def _wake(self, now: float) -> Sequence[str]:
        return wakeable(self.fleet, self.waiting(now), hold_seconds=self.hold_seconds)

    def _place(self, now: float, arrival: Arrival) -> Placement | None:
        request = arrival.request
        others = self.waiting(now, without=request.instance_id)
        held = holders(others, arrival.priority, now - arrival.at, hold_seconds=self.hold_seconds)
        outcome = place(self.fleet, request, held)
        if not isinstance(outcome, Placement):
            return None
        audit(self.fleet.snapshot(), request, outcome)
        self.fleet = self.fleet.plus(claims_of(outcome, request.instance_id, 1))
        del self._waiting[request.instance_id]
        self.placed[request.instance_id], self.ends[request.instance_id] = now, now + arrival.runs
        return outcome
