"""From a layout to a placement: the estimate for exactly these layers, and what is claimed where."""

from collections.abc import Mapping, Set

from stoker.domain.base import WorkerName
from stoker.domain.claims import Claim
from stoker.domain.estimation.estimate import without_prompt_cache
from stoker.domain.placement.evening import balanced
from stoker.domain.placement.fleet import Host
from stoker.domain.placement.lending import rpc_ram
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.types import DeviceShare, Placement, Tier
from stoker.domain.units import format_bytes
from stoker.domain.workers import DeviceKind


def placement_of(problem: Problem, layout: Layout) -> Placement:
    """The claims of `layout`: of each device its part of the estimate, of each worker the RAM of its process.

    RAM is claimed where it is offered; a CPU that holds layers for another worker's main server claims both at once.
    """
    layout = _evened(problem, layout)
    chain, main = layout.chain, layout.main
    estimate = problem.model.costs.estimate(chain.counts, tuple(room.device.kind for room in chain.rooms))
    if layout.hosts > 1:
        estimate = without_prompt_cache(estimate)
    ram = {main.name: estimate.host.total}
    for room in chain.rooms:
        if room.worker != main.name:
            ram[room.worker] = max(ram.get(room.worker, 0), rpc_ram(on_gpu=room.on_gpu))
    shares = []
    for room, needed in zip(chain.rooms, estimate.devices, strict=True):
        process = 0 if room.on_gpu else ram.pop(room.worker, 0)
        shares.append(
            DeviceShare(
                worker=room.worker if room.worker != main.name else "",
                device=room.device.id,
                kind=room.device.kind,
                engine_name=room.device.engine_name,
                layers=needed.layers,
                claim=needed.total + process,
            )
        )
    hosts = _named(problem, main, ram.keys())
    for name, size in ram.items():
        offered = hosts[name].cpu
        if offered is not None:
            worker = name if name != main.name else ""
            kind = DeviceKind.CPU
            shares.append(DeviceShare(worker=worker, device=offered.device.id, kind=kind, layers=0, claim=size))
    return Placement(
        worker=main.name, shares=tuple(shares), estimate=estimate, tier=layout.tier, reason=_reason(problem, layout)
    )


def _named(problem: Problem, main: Host, names: Set[WorkerName]) -> Mapping[WorkerName, Host]:
    """Those hosts; the main server's is at hand, and mostly the only one."""
    if names <= {main.name}:
        return {main.name: main}
    return {host.name: host for host in problem.admission.hosts if host.name in names}


def claims_of(placement: Placement, instance_id: str, incarnation: int) -> tuple[Claim, ...]:
    """The claims that hold `placement` for that incarnation, one a device, each on the worker whose device it is."""
    return tuple(
        Claim(
            instance_id=instance_id,
            incarnation=incarnation,
            worker=placement.worker_of(share),
            device=share.device,
            size=share.claim,
        )
        for share in placement.shares
    )


def _evened(problem: Problem, layout: Layout) -> Layout:
    """Spread over devices that are then evenly full; binpack leaves what is free in one piece."""
    spec, chain = problem.request.spec, layout.chain
    if len(chain.rooms) < 2 or problem.is_packed or spec.tensor_split or spec.overcommit:
        return layout
    spans = problem.model.spans(pipelined=chain.first == 0, first=chain.first)
    return layout._replace(chain=balanced(spans, chain))


def _reason(problem: Problem, layout: Layout) -> str:
    chain, main, layers = layout.chain, layout.main.name, problem.model.layers
    strategy = problem.request.spec.strategy
    gpus = f"{len(chain.rooms)} device{'' if len(chain.rooms) == 1 else 's'}"
    match layout.tier:
        case Tier.ONE_DEVICE:
            (room,) = chain.rooms
            left = format_bytes(max(0, room.free - problem.model.costs.column(layers, on_gpu=True, pipelined=False)[0]))
            name = room.device.name or room.device.id
            return f"whole model on {name} of {main}: the best single device ({strategy}), {left} stay free there"
        case Tier.ONE_WORKER:
            return f"whole model on {gpus} of {main}: no single device holds it"
        case Tier.SEVERAL_WORKERS:
            return f"whole model on {gpus} of {layout.hosts} workers, main server on {main}: no single worker holds it"
        case Tier.PART_ON_CPU | Tier.PART_ON_CPU_SEVERAL_WORKERS:
            where = main if layout.hosts == 1 else f"{layout.hosts} workers"
            return f"{chain.layers} of {layers} layers on {gpus} of {where}, the others on the CPU of {main}"
        case Tier.CPU:
            cpu = layout.main.cpu
            spare = max(0, cpu.free - problem.model.ram(layers, on_gpu=False)) if cpu is not None else 0
            return f"whole model on the CPU of {main} ({strategy}), {format_bytes(spare)} of RAM stay free there"
        case Tier.CPU_SEVERAL_WORKERS:
            return f"layers on {gpus} of {layout.hosts} workers, the others on the CPU of {main}: none holds it alone"
