"""How near each tier came: the rule that failed there, and by how many bytes or layers.

Here are the tiers that keep all layers on GPUs; `misses_of_cpu` has those with a CPU, `misses_of_split` those
of a split that the administrator fixed.
"""

from collections.abc import Callable, Sequence
from heapq import nlargest

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.cover import Spans
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_main
from stoker.domain.placement.misses_of_cpu import (
    cpu_missed,
    cpu_several_missed,
    part_on_cpu_missed,
    part_on_several_missed,
)
from stoker.domain.placement.misses_of_split import split_missed
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
    ram_short,
    reached,
    stretches,
    too_few,
)
from stoker.domain.placement.tiers import tiers_of
from stoker.domain.placement.types import Rule, Tier, TierOutcome
from stoker.domain.units import format_bytes


def outcomes(problem: Problem) -> tuple[TierOutcome, ...]:
    """One of each tier that the spec leaves, in their order."""
    if problem.request.spec.tensor_split:
        return split_missed(problem)
    return tuple(_OUTCOMES[tier](problem) for tier in tiers_of(problem))


def _one_device(problem: Problem) -> TierOutcome:
    model, tier = problem.model, Tier.ONE_DEVICE
    needed = model.costs.column(model.layers, on_gpu=True, pipelined=False)[0]
    ram = model.ram(0, on_gpu=True)
    hosts = [host for host in problem.admission.mains if host.gpus]
    if not hosts:
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message="there is no GPU that it may use")
    best = max(
        hosts, key=lambda host: (min(0, _largest_free(host, ram) - needed) + min(0, ram_of(host) - ram), host.name)
    )
    free = _largest_free(best, ram)
    if free >= needed:
        return ram_short(tier, best, ram, "to run beside a GPU") or none_found(tier)
    room = best.gpus[0]
    message = (
        f"needs {format_bytes(needed)}; the nearest device, {room.worker}/{room.device.id}, has {format_bytes(free)} "
        f"allocatable: {format_bytes(needed - free)} short"
    )
    return TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=needed - free, of_layers=model.layers)


def _largest_free(host: Host, ram: int) -> int:
    """Of its largest GPU, beside the main server's RAM where the memory is the same."""
    rooms = rooms_of_main(host, ram) if host.is_unified else host.gpus
    return max((room.free for room in rooms), default=0)


def _one_worker(problem: Problem) -> TierOutcome:
    model, tier = problem.model, Tier.ONE_WORKER
    ram = model.ram(0, on_gpu=True, pipelined=True)
    hosts = [host for host in problem.admission.mains if len(host.gpus) > 1]
    if not hosts:
        return TierOutcome(tier=tier, rule=Rule.TOO_FEW_DEVICES, message="no worker has more than one GPU")
    spans = model.spans(pipelined=True)

    def missed(host: Host) -> TierOutcome | None:
        rooms = rooms_of_main(host, ram) if host.has_ram(ram) else host.gpus
        if low := reached(spans, stretches(spans, rooms)):
            return too_few(tier, spans, low, f"the GPUs of {host.name}", devices=len(rooms))
        return ram_short(tier, host, ram, "to run beside GPUs")

    most = nlargest(MOST_COMPARED, hosts, key=lambda host: (host.gpu_bytes, host.name))
    with_ram = [host for host in hosts if host.has_ram(ram)]
    most += nlargest(MOST_COMPARED, with_ram, key=lambda host: (host.gpu_bytes, host.name))
    return nearest(map(missed, {host.name: host for host in most}.values())) or none_found(tier)


def _several_workers(problem: Problem) -> TierOutcome:
    tier = Tier.SEVERAL_WORKERS
    if (off := not_distributed(problem, tier)) is not None:
        return off
    spans = problem.model.spans(pipelined=True)
    found: list[TierOutcome] = []
    for hosts in groups(problem):
        lent = lent_by(hosts)
        if not lent:
            continue
        if low := reached(spans, stretches(spans, lent)):
            found.append(too_few(tier, spans, low, gpus_of(lent), devices=len(lent)))
        else:
            found.append(_main_missed(problem, tier, spans, hosts, lent))
    return nearest(found) or nothing_lent(problem, tier)


def _main_missed(
    problem: Problem, tier: Tier, spans: Spans, hosts: Sequence[Host], lent: Sequence[Room]
) -> TierOutcome:
    """Lent GPUs would be enough: why none of the workers can run the main server, which must hold a layer."""
    ram = problem.model.ram(0, on_gpu=True, pipelined=True)
    mains = problem.admission.mains_of([host for host in hosts if host.gpus])
    if not mains:
        return TierOutcome(tier=tier, rule=Rule.FILE_MISSING, message="none of the workers with a GPU has the file")
    holding = [host for host in mains if spans.most(_largest_free(host, ram), True)]
    if not holding:
        host = max(mains, key=lambda host: (_largest_free(host, ram), host.name))
        free = _largest_free(host, ram)
        needed = max(free + 1, min(spans.cost(end - 1, end, True) for end in range(1, spans.end + 1)))
        message = (
            f"the main server must hold a layer, and the smallest needs {format_bytes(needed)}; {host.name} has "
            f"{format_bytes(free)} allocatable: {format_bytes(needed - free)} short"
        )
        return TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=needed - free)
    starved = [host for host in holding if not host.has_ram(ram)]
    found = [ram_short(tier, host, ram, "to run the main server beside GPUs") for host in starved]
    for host in nlargest(MOST_COMPARED, (one for one in holding if one.has_ram(ram)), key=lambda one: one.gpu_bytes):
        own = max(rooms_of_main(host, ram), key=lambda room: room.free)
        others = [room for room in lent if room.worker != host.name]
        rooms = [own, *nlargest(MAX_DEVICES - 1, others, key=lambda room: room.free)]
        if low := spans.furthest(rooms, own).first:
            found.append(too_few(tier, spans, low, gpus_of(rooms), devices=len(lent)))
    return nearest(found) or none_found(tier)


_OUTCOMES: dict[Tier, Callable[[Problem], TierOutcome]] = {
    Tier.ONE_DEVICE: _one_device,
    Tier.ONE_WORKER: _one_worker,
    Tier.SEVERAL_WORKERS: _several_workers,
    Tier.PART_ON_CPU: part_on_cpu_missed,
    Tier.PART_ON_CPU_SEVERAL_WORKERS: part_on_several_missed,
    Tier.CPU: cpu_missed,
    Tier.CPU_SEVERAL_WORKERS: cpu_several_missed,
}
