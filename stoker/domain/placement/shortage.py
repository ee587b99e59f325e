"""What is short, in numbers and in words: the pieces of which the outcome of each tier is made."""

from collections.abc import Iterable, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import NamedTuple

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.cover import Spans
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_peer, rpc_ram
from stoker.domain.placement.problem import Problem
from stoker.domain.placement.several_workers import groups
from stoker.domain.placement.types import Rule, Tier, TierOutcome
from stoker.domain.units import format_bytes

MOST_COMPARED = 8
"""Workers that are looked at more closely for the nearest miss: those with the most room."""

MOST_ENGINES = 5
"""Engines that are told apart by name; the others are counted."""


class Stretch(NamedTuple):
    """The layers from `start` to before `end`, on one device."""

    room: Room
    start: int
    end: int


def stretches(spans: Spans, rooms: Iterable[Room]) -> list[Stretch]:
    """The largest of `rooms` behind each other, from the last layer down, each as full as can be.

    Largest first or last, whichever reaches further: every column of costs that is looked at has to be worked out, and
    the best order of all asks for all of them.
    """
    chosen = nlargest(MAX_DEVICES, rooms, key=_free)
    best: list[Stretch] = []
    for order in (chosen, chosen[::-1]) if chosen and chosen[0].free != chosen[-1].free else (chosen,):
        found: list[Stretch] = []
        end = spans.end
        for room in order:
            start = spans.start(end, room.free, room.on_gpu)
            if start < end:
                found.append(Stretch(room, start, end))
                end = start
        if not best or reached(spans, found) < reached(spans, best):
            best = found
        if end == spans.first:
            break
    return best


def reached(spans: Spans, found: Sequence[Stretch]) -> int:
    """The lowest layer of `found`; the end of all where there is none."""
    return found[-1].start if found else spans.end


def nearest(outcomes: Iterable[TierOutcome | None]) -> TierOutcome | None:
    """The one that is least short, before those that lack something else; the first of equals."""
    return min((one for one in outcomes if one is not None), key=lambda one: (not one.short, one.short), default=None)


def too_few(tier: Tier, spans: Spans, low: int, where: str, *, devices: int, kept: int = 0) -> TierOutcome:
    """Devices reach down to the layer `low`, and should to the first of `spans`; `kept`: layers held otherwise."""
    layers, held = spans.end - spans.first + kept, spans.end - low + kept
    short = spans.cost(spans.first, low, True)
    limit = f" (llama.cpp takes {MAX_DEVICES} devices at most)" if devices > MAX_DEVICES else ""
    message = (
        f"needs {layers} layers on devices; {held} fit on {where}{limit}: "
        f"a device with {format_bytes(short)} more is missing"
    )
    return TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=short, layers=held, of_layers=layers)


def ram_short(tier: Tier, host: Host, needed: int, purpose: str, *, free: int | None = None) -> TierOutcome | None:
    """`host` lacks RAM for that purpose; None where it does not. `free`: what it has, if not what it offers."""
    has = free if free is not None else ram_of(host)
    if has >= needed:
        return None
    message = (
        f"needs {format_bytes(needed)} of RAM {purpose}; {host.name} has {format_bytes(max(0, has))} allocatable: "
        f"{format_bytes(needed - has)} short"
    )
    return TierOutcome(tier=tier, rule=Rule.HOST_MEMORY, message=message, short=needed - has)


def none_found(tier: Tier) -> TierOutcome:
    """Each part of it has room, and no devices were found that are enough together."""
    message = f"no {MAX_DEVICES} devices or fewer were found that are enough together"
    return TierOutcome(tier=tier, rule=Rule.TOO_FEW_DEVICES, message=message)


def not_distributed(problem: Problem, tier: Tier) -> TierOutcome | None:
    """Why no workers may share it; None where some may."""
    if not problem.request.spec.distributed:
        return TierOutcome(
            tier=tier, rule=Rule.NOT_DISTRIBUTED, message="distributed is false: one worker must hold it"
        )
    if any(True for _ in groups(problem)):
        return None
    able = {host.group for host in problem.admission.hosts if host.group is not None}
    if len(able) > 1:
        named = sorted(f"{version} ({kind}, RPC {protocol})" for kind, version, protocol in able)
        told = ", ".join(named[:MOST_ENGINES])
        more = f" and {len(named) - MOST_ENGINES} others" if len(named) > MOST_ENGINES else ""
        message = f"no two workers have the same engine: there are {told}{more}"
        return TierOutcome(tier=tier, rule=Rule.ENGINE_MISMATCH, message=message)
    message = "fewer than two of the workers offer to share models over RPC"
    return TierOutcome(tier=tier, rule=Rule.NO_RPC, message=message)


def nothing_lent(problem: Problem, tier: Tier) -> TierOutcome:
    """Why no worker of any group lends a GPU."""
    able = [host for hosts in groups(problem) for host in hosts if host.gpus]
    if able:
        most = max(able, key=lambda host: (ram_of(host), host.name))
        if (short := ram_short(tier, most, rpc_ram(on_gpu=True), "to lend its GPUs")) is not None:
            return short
    message = "no worker that can share a model has a GPU that it may use"
    return TierOutcome(tier=tier, rule=Rule.TOO_FEW_DEVICES, message=message)


def lent_by(hosts: Iterable[Host]) -> list[Room]:
    """GPUs that they lend."""
    return [room for host in hosts for room in rooms_of_peer(host)]


def gpus_of(rooms: Iterable[Room]) -> str:
    """Whose they are, in words."""
    workers = {room.worker for room in rooms}
    return f"the GPUs of {next(iter(workers))}" if len(workers) == 1 else f"the GPUs of {len(workers)} workers"


def ram_of(host: Host) -> int:
    """Bytes of RAM that can be claimed; without end where they are not counted."""
    return 1 << 62 if host.cpu is None else host.cpu.free


_free = itemgetter(0)  # of a Room
