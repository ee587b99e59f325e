"""No starvation: what has waited too long reserves the devices that it could use.

Without it a large model would wait for ever behind a stream of small ones, each of which fits into the little that the
last one left. A reservation is worked out anew at every decision, from what is claimed then; nothing keeps it. It takes
the devices that are nearest to being free enough, so it stays where it is as they empty.
"""

from collections.abc import Sequence
from dataclasses import replace

from stoker.domain.base import InstanceId, Value
from stoker.domain.deployments import Strategy
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.placement.admission import Held, Reserved, admit
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.placing import placement_of
from stoker.domain.placement.problem import Problem, model_of
from stoker.domain.placement.tiers import search
from stoker.domain.placement.types import DeviceName, Placement, PlacementRequest
from stoker.domain.workers import DeviceKind

PENDING_HOLD_SECONDS = 600.0
"""Past this, one that waits reserves devices against younger ones of the same or lower priority."""

MOST_HOLDERS = 4
"""So many hold devices at once: to find what each could use takes as long as several placements."""

MOST_ELDERS = 32
"""So many of those that wait long are asked for it: some can never be placed, and hold nothing."""

_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of all claims that are taken as given back: the least with which it fits names the nearest devices."""


class Waiting(Value):
    """One that waits for room."""

    request: PlacementRequest
    priority: int = 0  # its deployment's of today
    waited_seconds: float = 0.0


def holders(
    waiting: Sequence[Waiting], priority: int, waited_seconds: float, *, hold_seconds: float = PENDING_HOLD_SECONDS
) -> tuple[PlacementRequest, ...]:
    """Those of `waiting` that hold devices against one of `priority` that has waited for `waited_seconds`.

    They are older and of no lower priority, the first to choose first. Not all of them will find what to hold.
    """
    elders = [
        one
        for one in waiting
        if one.waited_seconds >= max(hold_seconds, waited_seconds)
        and one.waited_seconds > waited_seconds
        and one.priority >= priority
    ]
    return tuple(one.request for one in sorted(elders, key=in_turn)[:MOST_ELDERS])


def in_turn(one: Waiting) -> tuple[int, float]:
    """The order in which they are served: by priority, then by how long they have waited."""
    return -one.priority, -one.waited_seconds


class Reservations:
    """What those that wait long hold of one fleet; each is worked out once, beside those before it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._given_back: dict[float, Fleet] = {}
        self._known: dict[tuple[InstanceId, ...], tuple[Reserved, int]] = {(): ({}, 0)}

    def of(self, requests: Sequence[PlacementRequest]) -> Reserved:
        """What `requests`, in this order, hold together: the first MOST_HOLDERS that find what they could use."""
        names: tuple[InstanceId, ...] = ()
        reserved, holding = self._known[names]
        for request in requests[:MOST_ELDERS]:
            if holding == MOST_HOLDERS:
                break
            names = (*names, request.instance_id)
            if names not in self._known:
                placement = nearest(self._fleet, request, reserved, self._given_back)
                found = (reserved, holding) if placement is None else (_with(reserved, placement), holding + 1)
                self._known[names] = found
            reserved, holding = self._known[names]
        return reserved


def reserved_devices(fleet: Fleet, request: PlacementRequest, reserved: Reserved) -> tuple[DeviceName, ...]:
    """The devices that `request` itself holds, beside those that are `reserved` for others before it."""
    placement = nearest(fleet, request, reserved)
    if placement is None:
        return ()
    held = [(name, device) for name, one in _with({}, placement).items() for device in sorted(one.devices)]
    return tuple(DeviceName(worker=name, device=device) for name, device in held)


def nearest(
    fleet: Fleet, request: PlacementRequest, reserved: Reserved, given_back: dict[float, Fleet] | None = None
) -> Placement | None:
    """Where it would be with as few of all claims given back as let it fit; None where it never will.

    `given_back`: the fleets of each step, where several ask. The emptiest devices are taken whatever the strategy of
    the request: one that chose the fullest would give up those that empty for it.
    """
    given_back = given_back if given_back is not None else {}
    spread = request.spec.model_copy(update={"strategy": Strategy.SPREAD})
    asked = request.model_copy(update={"spec": spread})
    model = model_of(request.profile, request.spec.options)
    if isinstance(model, EstimateRefusal):
        return None
    for part in _STEPS:
        if part not in given_back:
            given_back[part] = _given_back(fleet, part)
        problem = Problem(asked, model, admit(given_back[part], asked, reserved))
        if (layout := search(problem)) is not None:
            return placement_of(problem, layout)
    return None


def _given_back(fleet: Fleet, part: float) -> Fleet:
    if not part:
        return fleet
    return fleet.with_hosts(
        replace(host, given_back=part) for host in fleet.hosts.values() if any(host.claimed.values())
    )


def _with(reserved: Reserved, placement: Placement) -> Reserved:
    """GPUs are held whole; so is a CPU that computes. Of RAM that only stands beside GPUs, what it takes is held."""
    held = dict(reserved)
    for share in placement.shares:
        name = placement.worker_of(share)
        before = held.get(name, Held())
        if share.kind is not DeviceKind.CPU or share.layers or not placement.offloaded:
            held[name] = before._replace(devices=before.devices | {share.device})
        else:
            held[name] = before._replace(ram=before.ram + share.claim)
    return held
