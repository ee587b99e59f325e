"""The one way to claim more than there is: devices that the administrator named, and accepts to be too small."""

from collections.abc import Sequence

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.cover import Chain
from stoker.domain.placement.evening import balanced
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.types import Placement, Tier
from stoker.domain.units import format_bytes


def overcommitted(problem: Problem) -> Layout | None:
    """All the named GPUs (or the CPU, where no GPU is named), each with layers by its size, whatever is claimed there.

    None where it is not asked for, where a named device is not there, or where its workers cannot work together.
    """
    spec = problem.request.spec
    if not spec.overcommit or not spec.devices:
        return None
    hosts = {host.name: host for host in problem.admission.hosts}
    named = [(hosts.get(worker), device) for worker, device in spec.devices]
    if any(host is None for host, _ in named):
        return None
    rooms = [room for host, device in named if host is not None for room in host.gpus if room.device.id == device]
    cpus = sum(host is not None and host.cpu is not None and host.cpu.device.id == device for host, device in named)
    if len(rooms) + cpus < len(named):
        return None  # one of them is not there, or may not be used
    mains = [host for host in problem.admission.mains if any(host is one for one, _ in named)]
    if not mains:
        return None
    if not rooms:
        return Layout(Tier.CPU, mains[0], Chain((), (), problem.model.layers))
    workers = {room.worker for room in rooms}
    main = next((host for host in mains if host.name in workers), None)
    if main is None or (len(workers) > 1 and not _can_share(problem, [hosts[name] for name in workers])):
        return None
    chain = _shared(problem, rooms)
    if chain is None:
        return None
    several, part = len(workers) > 1, chain.first > 0
    if part:
        return Layout(Tier.PART_ON_CPU_SEVERAL_WORKERS if several else Tier.PART_ON_CPU, main, chain)
    one = Tier.ONE_DEVICE if len(chain.rooms) == 1 else Tier.ONE_WORKER
    return Layout(Tier.SEVERAL_WORKERS if several else one, main, chain)


def _can_share(problem: Problem, hosts: Sequence[Host]) -> bool:
    return problem.request.spec.distributed and len({host.group for host in hosts} - {None}) == 1 == len(
        {host.group for host in hosts}
    )


def _shared(problem: Problem, rooms: Sequence[Room]) -> Chain | None:
    """The layers over all `rooms` by their sizes, or as the administrator splits them."""
    spec, layers = problem.request.spec, problem.model.layers
    asked = problem.on_gpus if problem.on_gpus is not None else layers
    first = layers - asked
    if first < 0 or len(rooms) > MAX_DEVICES:
        return None
    if spec.tensor_split:
        return Chain(tuple(rooms), spec.tensor_split, first) if len(spec.tensor_split) == len(rooms) else None
    if not 0 < len(rooms) <= asked:
        return None
    spans = problem.model.spans(pipelined=len(rooms) > 1 and first == 0, first=first)
    needed = spans.cost(first, layers, True)
    # Rooms so large that one alone would do, in proportion to what they are: balanced, all are overfull alike.
    sized = [
        room._replace(free=max(1, room.device.total * needed // min(r.device.total for r in rooms))) for room in rooms
    ]
    counts = [asked // len(rooms) + (index < asked % len(rooms)) for index in range(len(rooms))]
    chain = balanced(spans, Chain(tuple(sized), tuple(counts), first))
    return Chain(tuple(rooms), chain.counts, first)


def warning_of(placement: Placement, hosts: Sequence[Host]) -> str:
    """What `placement` claims beyond what `hosts` had, for people; empty where it does not."""
    rooms = [room for host in hosts for room in (*host.gpus, *((host.cpu,) if host.cpu else ()))]
    free = {(room.worker, room.device.id): room.free for room in rooms}
    over = [
        f"{worker}/{share.device} by {format_bytes(share.claim - free[worker, share.device])}"
        for share in placement.shares
        if share.claim > free.get((worker := placement.worker_of(share), share.device), share.claim)
    ]
    return f"overcommitted as asked for: {', '.join(over)}; it may fail, and take others with it" if over else ""
