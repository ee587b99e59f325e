"""The placement decision: a pure function of a snapshot and a request.

1. Every worker is checked; a refused one is kept with its reason.
2. Its devices are tried: a GPU for the whole model, the CPU for the whole model.
3. The first tier that has a candidate wins: one GPU, then the CPU.
4. Within the tier the deployment's strategy ranks.
"""

from collections.abc import Iterable

from stoker.domain.claims import Claim, Snapshot
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.placement.candidates import Candidate, on_cpu, on_single_gpu
from stoker.domain.placement.explain import unplaceable
from stoker.domain.placement.feasibility import refuse_device, refuse_worker, unknown_devices
from stoker.domain.placement.scoring import best
from stoker.domain.placement.types import Placement, PlacementRequest, Rejection, Rule, Unplaceable
from stoker.domain.units import format_bytes
from stoker.domain.workers import DeviceKind


def place(snapshot: Snapshot, request: PlacementRequest) -> Placement | Unplaceable:
    """Where the request goes now, or every reason why it goes nowhere."""
    needs = _needs(request)
    if isinstance(needs, EstimateRefusal):
        refused = Rejection(rule=Rule.UNSUPPORTED, message=needs.message)
        return Unplaceable(rejections=(refused,), summary=needs.message)
    on_gpu, in_ram = needs
    gpus: list[Candidate] = []
    cpus: list[Candidate] = []
    rejections: list[Rejection] = unknown_devices(request, snapshot.workers)
    for worker in snapshot.workers:
        if (refusal := refuse_worker(request, worker)) is not None:
            rejections.append(refusal)
            continue
        for device in worker.devices:
            if (refusal := refuse_device(request, worker, device)) is not None:
                rejections.append(refusal)
                continue
            if device.kind is DeviceKind.CPU:
                tier, outcome = cpus, on_cpu(snapshot, worker, device, in_ram)
            else:
                tier, outcome = gpus, on_single_gpu(snapshot, worker, device, on_gpu)
            if isinstance(outcome, Candidate):
                tier.append(outcome)
            else:
                rejections.append(outcome)
    for tier in (gpus, cpus):
        if (chosen := best(tier, request.spec.strategy, request.avoid)) is not None:
            return _placement(chosen, request, len(tier))
    return unplaceable(snapshot, request, rejections)


def claims_of(placement: Placement, instance_id: str, incarnation: int) -> tuple[Claim, ...]:
    """The claims that hold `placement` for that incarnation, one a device."""
    return tuple(
        Claim(
            instance_id=instance_id,
            incarnation=incarnation,
            worker=placement.worker,
            device=share.device,
            size=share.claim,
        )
        for share in placement.shares
    )


def wakeable(snapshot: Snapshot, pending: Iterable[PlacementRequest]) -> tuple[str, ...]:
    """Ids of those pending instances that fit now, all of them together, when served in the order given.

    One that does not fit is passed over: it must not hold up a smaller one behind it.
    """
    woken = []
    for request in pending:
        outcome = place(snapshot, request)
        if isinstance(outcome, Placement):
            woken.append(request.instance_id)
            snapshot = snapshot.plus(claims_of(outcome, request.instance_id, request.incarnation))
    return tuple(woken)


def _needs(request: PlacementRequest) -> tuple[MemoryEstimate, MemoryEstimate] | EstimateRefusal:
    on_gpu = estimate(request.profile, request.spec.options, whole(request.profile))
    if isinstance(on_gpu, EstimateRefusal):
        return on_gpu
    in_ram = estimate(request.profile, request.spec.options)
    if isinstance(in_ram, EstimateRefusal):
        return in_ram
    return on_gpu, in_ram


def _placement(chosen: Candidate, request: PlacementRequest, candidates: int) -> Placement:
    device = "its CPU" if chosen.main.kind is DeviceKind.CPU else chosen.main.name or chosen.main.id
    others = (
        "the only device that fits" if candidates == 1 else f"first of {candidates} that fit ({request.spec.strategy})"
    )
    return Placement(
        worker=chosen.worker.name,
        shares=chosen.shares,
        estimate=chosen.estimate,
        reason=f"whole model on {device} of {chosen.worker.name}: {others}, "
        f"{format_bytes(chosen.free_after)} stay free there",
    )
