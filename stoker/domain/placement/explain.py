"""Why nothing fits: tier by tier, and device by device, the nearest misses first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest
from itertools import islice
from operator import itemgetter

from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.placement.admission import Reserved, refusals
from stoker.domain.placement.fixed_split import Split
from stoker.domain.placement.fleet import Fleet, Room
from stoker.domain.placement.lending import rooms_of_main
from stoker.domain.placement.misses import outcomes
from stoker.domain.placement.problem import Problem
from stoker.domain.placement.suggest import suggestions
from stoker.domain.placement.tiers import tiers_of
from stoker.domain.placement.types import (
    MAX_REJECTIONS,
    Rejection,
    Rule,
    Tier,
    TierOutcome,
    Unplaceable,
)
from stoker.domain.units import format_bytes

MEMORY_RULES = frozenset({Rule.MEMORY, Rule.HOST_MEMORY})

_Miss = tuple[int, str, str, Room, Tier, int]  # bytes short, worker, device, its room, tier, bytes needed


def unsupported(refusal: EstimateRefusal) -> Unplaceable:
    """No device could ever run it."""
    return Unplaceable(rejections=(Rejection(rule=Rule.UNSUPPORTED, message=refusal.message),), summary=refusal.message)


def no_workers() -> Unplaceable:
    """There is nothing to place it on."""
    none = Rejection(rule=Rule.NO_WORKERS, message="no worker has joined the cluster")
    return Unplaceable(rejections=(none,), summary="No worker has joined the cluster yet.")


def unplaceable(fleet: Fleet, problem: Problem, reserved: Reserved) -> Unplaceable:
    """The explanation of a request that no device takes now."""
    tiers = outcomes(problem)
    rejections, more = _rejections(fleet, problem, reserved)
    return Unplaceable(
        rejections=rejections,
        more=more,
        tiers=tiers,
        summary=_summary(problem, tiers, rejections),
        suggestions=suggestions(fleet, problem, reserved, tiers),
    )


def _rejections(fleet: Fleet, problem: Problem, reserved: Reserved) -> tuple[tuple[Rejection, ...], Mapping[Rule, int]]:
    """The nearest misses, and how many others there are of each rule.

    What the administrator named and does not exist comes first, then what lacks memory by how much it lacks, then what
    may not be used.
    """
    missed: Counter[Rule] = Counter()
    nearest = nsmallest(MAX_REJECTIONS, _counting(missed, _misses(problem)), key=_order)
    refused = list(refusals(fleet, problem.request, reserved))
    counted = Counter(one.rule for one in refused)
    counted.update(missed)
    named = [one for one in refused if one.rule is Rule.NO_SUCH_DEVICE]
    others = [one for one in refused if one.rule is not Rule.NO_SUCH_DEVICE]
    kept = [*named, *map(_told, nearest), *islice(others, MAX_REJECTIONS)][:MAX_REJECTIONS]
    counted.subtract(one.rule for one in kept)
    return tuple(kept), {rule: count for rule, count in counted.items() if count > 0}


def _counting(counted: Counter[Rule], misses: Iterable[_Miss]) -> Iterator[_Miss]:
    """`misses` as they pass, counted by rule: of a large fleet they are many, and no list of them is made."""
    of_rule = dict.fromkeys((Rule.MEMORY, Rule.HOST_MEMORY), 0)
    for miss in misses:
        of_rule[_rule(miss)] += 1
        yield miss
    counted.update(of_rule)


def _misses(problem: Problem) -> Iterator[_Miss]:
    """Each device that is too small for the most that one would have to hold, and each host whose RAM is."""
    model, layers = problem.model, problem.model.layers
    tiers = tiers_of(problem)
    if problem.request.spec.tensor_split:
        if (split := Split.of(problem)) is not None:
            tier = Tier.PART_ON_CPU if split.first else Tier.ONE_WORKER if len(split.counts) > 1 else Tier.ONE_DEVICE
            yield from _misses_on_gpus(problem, tier, split.sorted[0], split.ram)
    elif Tier.ONE_DEVICE in tiers:
        needed = model.costs.column(layers, on_gpu=True, pipelined=False)[0]
        yield from _misses_on_gpus(problem, Tier.ONE_DEVICE, needed, model.ram(0, on_gpu=True))
    elif Tier.PART_ON_CPU in tiers:
        first = layers - (problem.on_gpus or 0)
        needed = model.costs.column(layers, on_gpu=True, pipelined=False)[first]
        yield from _misses_on_gpus(problem, Tier.PART_ON_CPU, needed, model.ram(first, on_gpu=True))
    if Tier.CPU in tiers and not problem.request.spec.tensor_split:
        ram = model.ram(layers, on_gpu=False)
        for host in problem.admission.mains:
            if host.cpu is not None and problem.admission.computes(host) and (lack := ram - host.cpu.free) > 0:
                yield lack, host.name, host.cpu.device.id, host.cpu, Tier.CPU, ram


def _misses_on_gpus(problem: Problem, tier: Tier, needed: int, ram: int) -> Iterator[_Miss]:
    """GPUs with less than `needed` bytes, and hosts with less RAM than `ram` for the main server beside them."""
    for host in problem.admission.mains:
        name, cpu = host.name, host.cpu
        if cpu is not None and cpu.free < ram and host.gpus:
            yield ram - cpu.free, name, cpu.device.id, cpu, tier, ram
            continue
        for room in rooms_of_main(host, ram):
            if room.free < needed:
                yield needed - room.free, name, room.device.id, room, tier, needed


_order = itemgetter(0, 1, 2)  # of a miss


def _rule(miss: _Miss) -> Rule:
    room, tier = miss[3], miss[4]
    return Rule.MEMORY if room.on_gpu or tier is Tier.CPU else Rule.HOST_MEMORY


def _told(miss: _Miss) -> Rejection:
    short, worker, _, room, tier, needed = miss
    place = room.device.name or room.device.id if room.on_gpu else "RAM"
    return Rejection(
        rule=_rule(miss),
        tier=tier,
        worker=worker,
        device=room.device.id,
        needed=needed,
        available=needed - short,
        message=f"{place}: {format_bytes(needed)} needed, {format_bytes(needed - short)} of "
        f"{format_bytes(room.device.total)} allocatable, {format_bytes(short)} short",
    )


def _summary(problem: Problem, tiers: tuple[TierOutcome, ...], rejections: tuple[Rejection, ...]) -> str:
    """One line: what lacks least."""
    if rejections and rejections[0].rule is Rule.NO_SUCH_DEVICE:
        return f"{rejections[0].worker}/{rejections[0].device}: {rejections[0].message}."
    lacking = [one for one in tiers if one.rule in MEMORY_RULES and one.short]
    if lacking:
        nearest = min(lacking, key=lambda one: one.short)
        return f"{nearest.message[0].upper()}{nearest.message[1:]}."
    if rejections:
        nearest_one = rejections[0]
        where = f"{nearest_one.worker}/{nearest_one.device}" if nearest_one.device else nearest_one.worker
        return f"No worker may take it; {where}: {nearest_one.message}."
    told = [one for one in tiers if one.rule not in MEMORY_RULES]
    return f"Nothing may take it: {told[0].message}." if told else "Nothing may take it."
