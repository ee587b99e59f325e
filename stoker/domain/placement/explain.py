"""Why nothing fits, in one line and in numbers, and the nearest changes that would fit."""

from collections.abc import Sequence

from stoker.domain.claims import Snapshot
from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.estimate import default_context, estimate, whole
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.placement.types import PlacementRequest, Rejection, Rule, Unplaceable
from stoker.domain.units import format_bytes
from stoker.domain.workers import Device, DeviceKind, Worker

MEMORY_RULES = frozenset({Rule.MEMORY, Rule.HOST_MEMORY})

_ORDER = {Rule.NO_SUCH_DEVICE: 0, Rule.MEMORY: 1, Rule.HOST_MEMORY: 1}  # what the administrator can mend comes first


def unplaceable(snapshot: Snapshot, request: PlacementRequest, rejections: Sequence[Rejection]) -> Unplaceable:
    """The explanation of a request that no device takes now, nearest miss first."""
    if not snapshot.workers:
        none = Rejection(rule=Rule.NO_WORKERS, message="no worker has joined the cluster")
        return Unplaceable(rejections=(none,), summary="No worker has joined the cluster yet.")
    ordered = tuple(sorted(rejections, key=lambda r: (_ORDER.get(r.rule, 2), r.short, r.worker, r.device)))
    nearest = ordered[0]
    where = f"{nearest.worker}/{nearest.device}" if nearest.device else nearest.worker
    if nearest.rule in MEMORY_RULES:
        summary = (
            f"Needs {format_bytes(nearest.needed)}; the nearest device, {where}, has {format_bytes(nearest.available)} "
            f"allocatable: {format_bytes(nearest.short)} short."
        )
        return Unplaceable(rejections=ordered, summary=summary, suggestions=_suggestions(snapshot, request))
    return Unplaceable(rejections=ordered, summary=f"No worker may take it; {where}: {nearest.message}.")


def _suggestions(snapshot: Snapshot, request: PlacementRequest) -> tuple[str, ...]:
    """For each option alone: the smallest step down that would fit on some device now; else how much is missing."""
    devices = [(worker, device) for worker in snapshot.workers for device in worker.devices]
    found = []
    for label, steps in _steps(request):
        for shown, options in steps:
            if any(_fits(snapshot, request, options, worker, device) for worker, device in devices):
                found.append(f"{label} {shown}")
                break
    return tuple(found)


def _steps(request: PlacementRequest) -> list[tuple[str, list[tuple[str, EngineOptions]]]]:
    options = request.spec.options
    asked = options.context_length or default_context(request.profile)
    contexts = [n for n in (131072, 65536, 32768, 16384, 8192, 4096, 2048, 1024, 512) if n < asked]
    slots = [n for n in (64, 32, 16, 8, 4, 2, 1) if n < options.slots]
    caches = [c for c in (CacheType.Q8_0, CacheType.Q4_0) if options.cache_type in (CacheType.F16, CacheType.BF16)]
    return [
        ("set context_length to", [(str(n), options.model_copy(update={"context_length": n})) for n in contexts]),
        ("set slots to", [(str(n), options.model_copy(update={"slots": n})) for n in slots]),
        ("set cache_type to", [(c.value, options.model_copy(update={"cache_type": c})) for c in caches]),
    ]


def _fits(
    snapshot: Snapshot, request: PlacementRequest, options: EngineOptions, worker: Worker, device: Device
) -> bool:
    on_cpu = device.kind is DeviceKind.CPU
    needed = estimate(request.profile, options, () if on_cpu else whole(request.profile))
    if isinstance(needed, EstimateRefusal):
        return False
    total = needed.host.total if on_cpu else needed.devices[0].total
    return total <= snapshot.allocatable(worker, device)
