"""The nearest changes that would make a request fit now, each verified by placing again."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import nlargest
from typing import Any

from stoker.domain.deployments import CacheType, DeploymentSpec
from stoker.domain.estimation.estimate import default_context
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.placement.admission import Reserved, admit
from stoker.domain.placement.fixed_split import Split
from stoker.domain.placement.fleet import Fleet, Host
from stoker.domain.placement.placing import placement_of
from stoker.domain.placement.problem import Problem, model_of
from stoker.domain.placement.tiers import search
from stoker.domain.placement.types import Placement, Suggestion, Tier, TierOutcome
from stoker.domain.units import GIB, format_bytes
from stoker.domain.workers import Device, DeviceKind, WorkerState

MOST_PROMISING = 32
"""Workers of each kind (the largest GPU, the most GPU memory, the most RAM) on which changes are tried."""

LARGEST_DEVICE = 288 * GIB
"""No device that is sold is larger: one that would have to be is no suggestion."""

_TENTH = GIB // 10
_EXACT = 100 * GIB  # up to here three figures tell a tenth of a GiB
_NEW = "new"

Try = Callable[[DeploymentSpec], Placement | None]


def suggestions(
    fleet: Fleet, problem: Problem, reserved: Reserved, tiers: Sequence[TierOutcome]
) -> tuple[Suggestion, ...]:
    """Each option alone, by the smallest step that is enough; then more memory."""
    request = problem.request
    promising = fleet.with_hosts(()) if len(fleet.hosts) <= MOST_PROMISING else _promising(fleet)

    def tried(spec: DeploymentSpec) -> Placement | None:
        asked = problem._replace(request=request.model_copy(update={"spec": spec}))
        if spec.options is not request.spec.options:
            model = model_of(request.profile, spec.options)
            if isinstance(model, EstimateRefusal):
                return None
            asked = asked._replace(model=model)
        return _placed(promising, asked, reserved, has_gpus=fleet.has_gpus)

    found = [
        *_less_context(problem, tried),
        *_fewer_slots(problem, tried),
        *_smaller_cache(problem, tried),
        *_other_places(problem, tried),
        *_uncordoned(fleet, problem, reserved),
    ]
    more = _one_more_device(promising, problem, reserved, tiers)
    return (*found, *((more,) if more is not None else ()))


def _placed(fleet: Fleet, asked: Problem, reserved: Reserved, *, has_gpus: bool) -> Placement | None:
    """Where `asked` goes on that fleet; who may take part there is worked out anew."""
    if has_gpus and not fleet.has_gpus:  # the GPUs are among the workers that were left out
        return None
    problem = asked._replace(admission=admit(fleet, asked.request, reserved))
    layout = search(problem)
    return None if layout is None else placement_of(problem, layout)


def _promising(fleet: Fleet) -> Fleet:
    """The workers where a change would fit if it fits anywhere, or nearly so: trying them all takes too long."""
    kinds: tuple[Callable[[Host], int], ...] = (_largest_gpu, _gpu_bytes, _ram)
    names = {host.name: host for kind in kinds for host in nlargest(MOST_PROMISING, fleet.ready, key=kind)}
    return Fleet(names)


def _largest_gpu(host: Host) -> int:
    return host.gpus[0].free if host.gpus else 0


def _gpu_bytes(host: Host) -> int:
    return host.gpu_bytes


def _ram(host: Host) -> int:
    return host.cpu.free if host.cpu is not None else 0


# --- options ---------------------------------------------------------------------------------------------------------


def _less_context(problem: Problem, tried: Try) -> Iterator[Suggestion]:
    options = problem.request.spec.options
    asked = options.context_length or default_context(problem.request.profile)
    steps = [1 << power for power in reversed(range(9, 24)) if 1 << power < asked]
    yield from _largest(problem, tried, "context_length", asked, steps, "context")


def _fewer_slots(problem: Problem, tried: Try) -> Iterator[Suggestion]:
    asked = problem.request.spec.options.slots
    steps = [1 << power for power in reversed(range(8)) if 1 << power < asked]
    yield from _largest(problem, tried, "slots", asked, steps, "slots")


def _largest(
    problem: Problem, tried: Try, option: str, asked: int, steps: Sequence[int], name: str
) -> Iterator[Suggestion]:
    """The first of `steps`, which go down, that fits: what takes less fits where more does."""
    low, high = 0, len(steps)
    best: tuple[int, Placement] | None = None
    while low < high:
        middle = (low + high) // 2 if best is not None else high - 1  # the smallest first: most often it is too large
        found = tried(_with_option(problem.request.spec, option, steps[middle]))
        if found is not None:
            best, high = (steps[middle], found), middle
        elif best is None:
            return
        else:
            low = middle + 1
    if best is not None:
        value, placement = best
        text = f"{name} {asked} → {value} fits on {_where(placement)}"
        yield Suggestion(text=text, changes={f"options.{option}": value})


def _smaller_cache(problem: Problem, tried: Try) -> Iterator[Suggestion]:
    options = problem.request.spec.options
    if options.cache_type not in (CacheType.F16, CacheType.BF16, CacheType.F32) or options.cache_type_v is not None:
        return
    found = None
    for cache_type in (CacheType.Q4_0, CacheType.Q8_0):  # where the smallest is too large, no other need be tried
        placement = tried(_with_option(problem.request.spec, "cache_type", cache_type))
        if placement is None:
            break
        found = cache_type, placement
    if found is not None:
        cache_type, placement = found
        text = f"{cache_type} KV cache fits on {_where(placement)}"
        yield Suggestion(text=text, changes={"options.cache_type": cache_type.value})


def _with_option(spec: DeploymentSpec, option: str, value: object) -> DeploymentSpec:
    return spec.model_copy(update={"options": spec.options.model_copy(update={option: value})})


# --- where -----------------------------------------------------------------------------------------------------------


def _other_places(problem: Problem, tried: Try) -> Iterator[Suggestion]:
    spec = problem.request.spec
    if not spec.cpu_offload:
        found = tried(spec.model_copy(update={"cpu_offload": True}))
        if found is not None:
            yield Suggestion(text=f"allow CPU offload: {_on_gpus(problem, found)}", changes={"cpu_offload": True})
    if not spec.distributed:
        found = tried(spec.model_copy(update={"distributed": True}))
        if found is not None:
            text = f"allow several workers: fits on {_where(found)}"
            yield Suggestion(text=text, changes={"distributed": True})
    fields: tuple[tuple[str, Any, str], ...] = (
        ("devices", (), "any device"),
        ("worker_selector", {}, "any worker"),
        ("min_compute_capability", None, "any compute capability"),
    )
    for field, free, name in fields:
        if getattr(spec, field) and (found := tried(spec.model_copy(update={field: free}))) is not None:
            yield Suggestion(text=f"allow {name}: fits on {_where(found)}")


def _uncordoned(fleet: Fleet, problem: Problem, reserved: Reserved) -> Iterator[Suggestion]:
    """The first cordoned worker that would hold it alone."""
    cordoned = (host for host in fleet.hosts.values() if host.worker.state is WorkerState.CORDONED)
    for host in nlargest(4, cordoned, key=_gpu_bytes):
        worker = host.worker.model_copy(update={"state": WorkerState.READY})
        alone = Fleet({host.name: Host(worker, host.claimed)})
        if _placed(alone, problem, reserved, has_gpus=fleet.has_gpus) is not None:
            yield Suggestion(text=f"uncordon {host.name}: it fits there")
            return


def _one_more_device(
    fleet: Fleet, problem: Problem, reserved: Reserved, tiers: Sequence[TierOutcome]
) -> Suggestion | None:
    """The smallest GPU with which it fits: on a worker that lacks it, or on a new one."""
    if problem.request.spec.devices or not fleet.ready:
        return None
    shorts = {one.short for one in tiers if one.short and one.tier in _MENDED_BY_A_DEVICE}
    sizes = sorted(size for size in shorts | _of_one_device(problem) if size <= LARGEST_DEVICE)
    best: tuple[int, str] | None = None
    for host in nlargest(2, fleet.ready, key=_gpu_bytes):

        def fits(tenths: int, host: Host = host) -> bool:
            changed = fleet.with_hosts([_with_device(host, tenths * _TENTH)])
            return _placed(changed, problem, reserved, has_gpus=True) is not None

        tried = [-(-size // _TENTH) for size in (*sizes, LARGEST_DEVICE)] if best is None else [best[0] - 1]
        bound = bisect_left(tried, True, key=lambda tenths: tenths > 0 and fits(tenths))  # what is larger fits, too
        if bound < len(tried):
            best = _least(fits, tried[bound]), host.name
    if best is None:
        return None
    tenths, name = best
    size = tenths * _TENTH
    if size > _EXACT:  # three figures are told: what is told must be enough
        size = -(-size // GIB) * GIB
    return Suggestion(text=f"one more device with ≥ {format_bytes(size)} in {name}")


_MENDED_BY_A_DEVICE = (Tier.ONE_DEVICE, Tier.ONE_WORKER, Tier.SEVERAL_WORKERS)


def _of_one_device(problem: Problem) -> set[int]:
    """Bytes that a single device may have to hold: of the whole model, or of a part that the administrator fixed."""
    if problem.request.spec.tensor_split:
        split = Split.of(problem)
        return set(split.sizes) if split is not None else set()
    return {problem.model.costs.column(problem.model.layers, on_gpu=True, pipelined=False)[0]}


def _least(fits: Callable[[int], bool], bound: int) -> int:
    """The smallest that fits, or one some 2 % larger, up to `bound`, which does: most often that is it, or nearly."""
    low, high, step = 1, bound, 1
    while high - low > high // 64:
        tried = max(low, high - step)
        if fits(tried):
            high, step = tried, 2 * step
        else:
            low, step = tried + 1, max(1, (high - tried) // 2)
    return high


def _with_device(host: Host, size: int) -> Host:
    index = len(host.worker.devices)
    device = Device(id=_NEW, kind=DeviceKind.CUDA, total=size, engine_name=f"CUDA{index}", compute_capability="12.0")
    worker = host.worker.model_copy(update={"devices": (*host.worker.devices, device)})
    return Host(worker, host.claimed)


def _where(placement: Placement) -> str:
    workers = placement.workers
    if placement.tier is Tier.CPU:
        return f"the CPU of {placement.worker}"
    return placement.worker if len(workers) == 1 else f"{len(workers)} workers"


def _on_gpus(problem: Problem, placement: Placement) -> str:
    layers = sum(share.layers for share in placement.offloaded if share.kind is not DeviceKind.CPU)
    return f"{layers} of {problem.model.layers} layers on GPUs of {_where(placement)}" if layers else _where(placement)
