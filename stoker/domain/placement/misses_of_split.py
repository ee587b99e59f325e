"""How near a split came that the administrator fixed: which part of it has no device."""

from collections.abc import Sequence
from heapq import nlargest

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.fixed_split import Split
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_main
from stoker.domain.placement.misses_of_cpu import computing, no_cpu
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
)
from stoker.domain.placement.types import Rule, Tier, TierOutcome
from stoker.domain.units import format_bytes


def split_missed(problem: Problem) -> tuple[TierOutcome, ...]:
    """One outcome for one worker, and one for several where the split has several parts."""
    split = Split.of(problem)
    counts, layers = problem.request.spec.tensor_split, problem.model.layers
    if split is None:
        message = (
            f"tensor_split has {sum(counts)} layers, and the model has {layers} layers with the output"
            if sum(counts) > layers
            else f"tensor_split has {len(counts)} parts, and llama.cpp takes {MAX_DEVICES} devices at most"
        )
        return (TierOutcome(tier=Tier.ONE_WORKER, rule=Rule.UNSUPPORTED, message=message),)
    if split.first:
        several = Tier.PART_ON_CPU_SEVERAL_WORKERS
        return _on_one(problem, split, Tier.PART_ON_CPU), _on_several(problem, split, several)
    if len(counts) == 1:
        return (_on_one(problem, split, Tier.ONE_DEVICE),)
    return _on_one(problem, split, Tier.ONE_WORKER), _on_several(problem, split, Tier.SEVERAL_WORKERS)


def _on_one(problem: Problem, split: Split, tier: Tier) -> TierOutcome:
    if split.first and (off := no_cpu(problem, tier)) is not None:
        return off
    hosts = [host for host in problem.admission.mains if host.gpus]
    if not hosts:
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message="there is no GPU that it may use")
    if split.first and not (hosts := computing(problem, hosts)):
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message="no worker with a GPU offers its CPU")
    if split.named and len({worker for worker, _ in split.named}) > 1:
        message = "the devices that are named are not all of one worker"
        return TierOutcome(tier=tier, rule=Rule.TOO_FEW_DEVICES, message=message)

    def missed(host: Host) -> TierOutcome | None:
        rooms = rooms_of_main(host, split.ram) if host.has_ram(split.ram) else host.gpus
        return _part_missed(split, tier, rooms) or ram_short(tier, host, split.ram, "to run beside GPUs")

    most = nlargest(MOST_COMPARED, hosts, key=lambda host: (_held(split, host), host.gpu_bytes, host.name))
    return nearest(map(missed, most)) or none_found(tier)


def _held(split: Split, host: Host) -> int:
    return sum(min(place, able) for place, able in enumerate(split.able(host.gpus), 1))


def _on_several(problem: Problem, split: Split, tier: Tier) -> TierOutcome:
    if split.first and (off := no_cpu(problem, tier)) is not None:
        return off
    if (off := not_distributed(problem, tier)) is not None:
        return off
    if split.named and len({worker for worker, _ in split.named}) == 1:
        message = "the devices that are named are all of one worker"
        return TierOutcome(tier=tier, rule=Rule.TOO_FEW_DEVICES, message=message)
    if split.first and not any(computing(problem, problem.admission.mains_of(hosts)) for hosts in groups(problem)):
        message = "no worker that can share a model offers its CPU"
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message=message)
    found: list[TierOutcome] = []
    for hosts in groups(problem):
        lent = lent_by(hosts)
        if lent:
            found.append(_part_missed(split, tier, lent) or _main_missed(problem, split, tier, hosts, lent))
    return nearest(found) or nothing_lent(problem, tier)


def _main_missed(
    problem: Problem, split: Split, tier: Tier, hosts: Sequence[Host], lent: Sequence[Room]
) -> TierOutcome:
    """Lent GPUs would be enough: why none of the workers can run the main server."""
    mains = problem.admission.mains_of(hosts if split.first else [host for host in hosts if host.gpus])
    if not mains:
        return TierOutcome(tier=tier, rule=Rule.FILE_MISSING, message="none of the workers has the file")
    if split.first and not (mains := tuple(computing(problem, mains))):
        message = "no worker that can share a model offers its CPU"
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message=message)
    able = mains if split.first else [host for host in mains if host.gpus[0].free >= split.sorted[-1]]
    if not able:
        host = max(mains, key=lambda host: (host.gpus[0].free, host.name))
        needed, free = split.sorted[-1], host.gpus[0].free
        message = (
            f"the main server must hold a part, and the smallest needs {format_bytes(needed)}; {host.name} has "
            f"{format_bytes(free)} allocatable: {format_bytes(needed - free)} short"
        )
        return TierOutcome(tier=tier, rule=Rule.MEMORY, message=message, short=needed - free)
    found: list[TierOutcome | None] = []
    for host in nlargest(MOST_COMPARED, able, key=lambda host: (ram_of(host), host.name)):
        others = [room for room in lent if room.worker != host.name]
        found.append(
            ram_short(tier, host, split.ram, "to run the main server beside GPUs")
            or _part_missed(split, tier, [*rooms_of_main(host, split.ram), *others])
        )
    return nearest(found) or none_found(tier)


def _part_missed(split: Split, tier: Tier, rooms: Sequence[Room]) -> TierOutcome | None:
    """The largest part that none of `rooms` is left for; None where each has one."""
    left = sorted(rooms, key=lambda room: (-room.free, room.worker, room.device.id))
    by_name = {(room.worker, room.device.id): room for room in rooms}
    held, missing = 0, None
    for index in split.order:
        size, layers = split.sizes[index], split.counts[index]
        room = by_name.get(split.named[index]) if split.named else left[0] if left else None
        if room is not None and room.free >= size:
            held += layers
            left.remove(room)
        elif missing is None:
            missing = index, room
    if missing is None:
        return None
    index, room = missing
    size, layers = split.sizes[index], split.counts[index]
    part = f"the part of {layers} layer{'' if layers == 1 else 's'} needs a device with {format_bytes(size)}"
    if room is not None:
        short = size - room.free
        nearest_one = f"{room.worker}/{room.device.id}"
        message = (
            f"{part}; {nearest_one if split.named else f'the largest that is left, {nearest_one},'} has "
            f"{format_bytes(room.free)} allocatable: {format_bytes(short)} short"
        )
        return TierOutcome(
            tier=tier, rule=Rule.MEMORY, message=message, short=short, layers=held, of_layers=sum(split.counts)
        )
    if split.named:
        message = f"{part}, and {'/'.join(split.named[index])} is no GPU that it may use"
        return TierOutcome(tier=tier, rule=Rule.NO_DEVICES, message=message)
    message = f"{part}, and {gpus_of(rooms)} are {len(rooms)}: one is missing" if rooms else f"{part}: one is missing"
    return TierOutcome(
        tier=tier, rule=Rule.MEMORY, message=message, short=size, layers=held, of_layers=sum(split.counts)
    )
