"""How near the tiers came that keep layers on CPUs."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest

from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import RPC_SERVER_RAM, rooms_of_peer
from stoker.domain.placement.problem import Problem
from stoker.domain.placement.several_workers import groups
from stoker.domain.placement.shortage import (
    MOST_COMPARED,
    gpus_of,
    lent_by,
    nearest,
    none_found,
    not_distributed,
    nothing_lent,
    ram_of,
    reached,
    stretches,
    too_few,
)
from stoker.domain.placement.types import Rule, Tier, TierOutcome
from stoker.domain.units import format_bytes


def no_cpu(problem: Problem, tier: Tier) -> TierOutcome | None:
    """CPUs may not compute; None where some may."""
    if problem.admission.computing != frozenset():
        return None
    message = "CPUs are used only with cpu_offload where there are GPUs"
    return TierOutcome(tier=tier, rule=Rule.CPU_NOT_ALLOWED, message=message)


def computing(problem: Problem, hosts: Iterable[Host]) -> list[Host]:
    """Those of `hosts` whose CPU may compute: one whose RAM is not offered computes nothing."""
    return [host for host in hosts if host.cpu is not None and problem.admission.computes(host)]


def part_on_cpu_missed(problem: Problem) -> TierOutcome:
    """Of one worker's GPUs and its CPU."""
    tier = Tier.PART_ON_CPU
    if (off := no_cpu(problem, tier)) is not None:
        return off
    with_gpus = [host for host in problem.admission.mains if host.gpus]
    if not with_gpus:
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message="there is no GPU that it may use")
    hosts = computing(problem, with_gpus)
    if not hosts:
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message="no worker with a GPU offers its CPU")
    most = nlargest(MOST_COMPARED, hosts, key=lambda host: (host.gpu_bytes + ram_of(host), host.name))
    return nearest(_part_missed(problem, tier, host, _own(host)) for host in most) or none_found(tier)


def part_on_several_missed(problem: Problem) -> TierOutcome:
    """Of the GPUs of several workers, and the CPU of one."""
    tier = Tier.PART_ON_CPU_SEVERAL_WORKERS
    if (off := no_cpu(problem, tier) or not_distributed(problem, tier)) is not None:
        return off
    found: list[TierOutcome | None] = []
    no_main, any_lent = True, False
    for hosts in groups(problem):
        mains = computing(problem, problem.admission.mains_of(hosts))
        lent = lent_by(hosts)
        no_main, any_lent = no_main and not mains, any_lent or bool(lent)
        for main in nlargest(MOST_COMPARED, mains, key=lambda host: (ram_of(host), host.name)):
            others = [room for room in lent if room.worker != main.name]
            if others:
                found.append(_part_missed(problem, tier, main, [*_own(main), *others]))
                if main.is_unified:
                    found.append(_part_missed(problem, tier, main, others))
    if no_main:
        message = "no worker that can share a model offers its CPU"
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message=message)
    if (least := nearest(found)) is not None:
        return least
    if found:
        return none_found(tier)
    if any_lent:
        message = "no other worker that can share a model has a GPU to lend"
        return TierOutcome(tier=tier, rule=Rule.TOO_FEW_DEVICES, message=message)
    return nothing_lent(problem, tier)


def _own(host: Host) -> list[Room]:
    """Its GPUs; one of unified memory may have all RAM that is left."""
    ram = ram_of(host)
    return [room._replace(free=min(room.free, ram)) if room.device.unified else room for room in host.gpus]


def _part_missed(problem: Problem, tier: Tier, main: Host, rooms: Sequence[Room]) -> TierOutcome | None:
    """What is short when the last layers are on `rooms` and the others on the CPU of `main`; None: nothing."""
    model, asked = problem.model, problem.on_gpus
    spans = model.spans(pipelined=False, first=1 if asked is None else model.layers - asked)
    held = stretches(spans, rooms)
    low = reached(spans, held)
    if asked is not None and low > spans.first:
        return too_few(tier, spans, low, gpus_of(rooms), devices=len(rooms))
    if not held:
        largest = max(rooms, key=lambda room: room.free)
        needed = min(spans.cost(start, spans.end, True) for start in range(spans.first, spans.end))
        short = needed - largest.free
        message = (
            f"no layer fits on GPUs: the last one needs {format_bytes(needed)}, and the largest, {largest.worker}/"
            f"{largest.device.id}, has {format_bytes(largest.free)} allocatable: {format_bytes(short)} short"
        )
        return TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=short, of_layers=model.layers)
    taken = sum(
        spans.cost(one.start, one.end, True)
        for one in held
        if one.room.device.unified and one.room.worker == main.name and main.cpu is not None
    )
    needed, free = model.ram(low, on_gpu=True), ram_of(main) - taken
    if needed <= free:
        return None
    layers, left = model.layers, max(0, free)
    message = (
        f"{layers - low} of {layers} layers fit on GPUs; the others need {format_bytes(needed)} of the RAM of "
        f"{main.name}, which has {format_bytes(left)} allocatable: {format_bytes(needed - left)} short"
    )
    return TierOutcome(
        tier=tier, rule=Rule.HOST_MEMORY, message=message, short=needed - left, layers=layers - low, of_layers=layers
    )


def cpu_missed(problem: Problem) -> TierOutcome:
    """Of one worker's CPU."""
    tier = Tier.CPU
    if (off := no_cpu(problem, tier)) is not None:
        return off
    hosts = computing(problem, problem.admission.mains)
    if not hosts:
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message="no worker offers its CPU")
    needed = problem.model.ram(problem.model.layers, on_gpu=False)
    best = max(hosts, key=lambda host: (ram_of(host), host.name))
    free = ram_of(best)
    if free >= needed:
        return none_found(tier)
    message = (
        f"needs {format_bytes(needed)} of RAM; the nearest worker, {best.name}, has {format_bytes(free)} "
        f"allocatable: {format_bytes(needed - free)} short"
    )
    return TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=needed - free)


def cpu_several_missed(problem: Problem) -> TierOutcome:
    """Of CPUs of several workers, and their GPUs."""
    tier = Tier.CPU_SEVERAL_WORKERS
    if (off := no_cpu(problem, tier) or not_distributed(problem, tier)) is not None:
        return off
    found: list[TierOutcome | None] = []
    for hosts in groups(problem):
        mains = computing(problem, problem.admission.mains_of(hosts))
        for main in nlargest(MOST_COMPARED // 2, mains, key=lambda host: (ram_of(host), host.name)):
            found += _shared_missed(problem, tier, main, hosts)
    if not found:
        message = "no worker that can share a model offers its CPU"
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message=message)
    most = max((one.layers for one in found if one is not None), default=0)
    return nearest(one for one in found if one is not None and one.layers == most) or none_found(tier)


def _shared_missed(problem: Problem, tier: Tier, main: Host, hosts: Sequence[Host]) -> Iterator[TierOutcome | None]:
    """What is short when `main` has as many of the first layers as its RAM holds, and the others all that they have.

    With the GPUs of all, which cost RAM for a driver, and without.
    """
    model, layers = problem.model, problem.model.layers
    for gpus in (False, True) if any(host.gpus for host in hosts) else (False,):
        first = _layers_in_ram(problem, main, gpus=gpus)
        if not first:
            needed, free = model.ram(1, on_gpu=gpus), ram_of(main)
            message = (
                f"needs {format_bytes(needed)} of RAM for the main server and the first layer; {main.name} has "
                f"{format_bytes(free)} allocatable: {format_bytes(needed - free)} short"
            )
            yield TierOutcome(tier=tier, rule=Rule.HOST_MEMORY, message=message, short=needed - free, of_layers=layers)
            continue
        others = (host for host in hosts if host is not main)
        rooms = [r for h in others for r in rooms_of_peer(h, gpus=gpus, cpu=problem.admission.computes(h))]
        if gpus and not main.is_unified:
            rooms += main.gpus
        spans = model.spans(pipelined=False, first=first)
        low = reached(spans, stretches(spans, rooms))
        if low == first:
            yield None
            continue
        held, short = layers - low + first, spans.cost(first, low, False) + RPC_SERVER_RAM
        message = (
            f"{held} of {layers} layers fit on CPUs and GPUs of the workers that can share it, {first} of them on the "
            f"CPU of {main.name}: a worker with {format_bytes(short)} more RAM is missing"
        )
        yield TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=short, layers=held, of_layers=layers)


def _layers_in_ram(problem: Problem, host: Host, *, gpus: bool) -> int:
    """The first layers that its RAM holds beside the main server, all but one at most."""
    ram, low, high = ram_of(host), 0, problem.model.layers - 1
    while low < high:
        middle = (low + high + 1) // 2
        if problem.model.ram(middle, on_gpu=gpus) <= ram:
            low = middle
        else:
            high = middle - 1
    return low
