"""The placement decision: a pure function of the fleet and a request.

1. Who may take part at all: `admission`.
2. The tiers in their order, the first that fits wins: `tiers`, and a file for each.
3. Within a tier the fewest workers, then the fewest devices, then the deployment's strategy.
4. The layout becomes a placement with its claims: `placing`.
5. Nothing fits: why, tier by tier, and what would: `explain`.
"""

from collections.abc import Collection, Sequence

from stoker.domain.base import InstanceId
from stoker.domain.claims import Claim
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.placement.admission import Reserved, admit
from stoker.domain.placement.explain import no_workers, unplaceable, unsupported
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.overcommit import warning_of
from stoker.domain.placement.placing import claims_of, placement_of
from stoker.domain.placement.problem import Problem, model_of
from stoker.domain.placement.reservations import (
    MOST_ELDERS,
    PENDING_HOLD_SECONDS,
    Reservations,
    Waiting,
    in_turn,
    reserved_devices,
)
from stoker.domain.placement.tiers import search
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable

__all__ = ["claims_of", "fits_instead", "place", "placed", "wakeable"]


def place(
    fleet: Fleet, request: PlacementRequest, holders: Sequence[PlacementRequest] = (), *, holds: bool = False
) -> Placement | Unplaceable:
    """Where the request goes now, or every reason why it goes nowhere.

    `holders`: those that have waited so long that they reserve devices against this one (`reservations.holders`);
    `holds`: it has waited so long itself, and is told what is kept for it.
    """
    reserved = Reservations(fleet).of(tuple(holders))
    found = placed(fleet, request, reserved)
    if found is not None:
        return found
    why = explained(fleet, request, reserved)
    kept = reserved_devices(fleet, request, reserved) if holds and why.lacks_room else ()
    return why.model_copy(update={"reserved": kept}) if kept else why


def placed(fleet: Fleet, request: PlacementRequest, reserved: Reserved) -> Placement | None:
    """Where the request goes now, beside what is `reserved` for others; None when nowhere."""
    model = model_of(request.profile, request.spec.options)
    if isinstance(model, EstimateRefusal):
        return None
    problem = Problem(request, model, admit(fleet, request, reserved))
    layout = search(problem)
    if layout is None:
        return None
    placement = placement_of(problem, layout)
    if request.spec.overcommit:
        warning = warning_of(placement, problem.admission.hosts)
        placement = placement.model_copy(update={"warning": warning}) if warning else placement
    return placement


def fits_instead(
    fleet: Fleet, request: PlacementRequest, claims: Collection[Claim], holders: Sequence[PlacementRequest] = ()
) -> bool:
    """Whether the request would have a place if those `claims` were given back."""
    freed = fleet.minus(claims)
    return placed(freed, request, Reservations(freed).of(tuple(holders))) is not None


def explained(fleet: Fleet, request: PlacementRequest, reserved: Reserved) -> Unplaceable:
    """Why the request goes nowhere."""
    model = model_of(request.profile, request.spec.options)
    if isinstance(model, EstimateRefusal):
        return unsupported(model)
    if not fleet.hosts:
        return no_workers()
    problem = Problem(request, model, admit(fleet, request, reserved))
    return unplaceable(fleet, problem, reserved)


def wakeable(
    fleet: Fleet, waiting: Sequence[Waiting], *, hold_seconds: float = PENDING_HOLD_SECONDS
) -> tuple[InstanceId, ...]:
    """Ids of those that fit now, all of them together, served by priority, then by how long they have waited.

    One that does not fit is passed over: it must not hold up a smaller one behind it, unless it has waited so long
    that it reserves devices.
    """
    woken: list[InstanceId] = []
    holding: list[Waiting] = []
    reservations = Reservations(fleet)
    refused: set[object] = set()  # like ones need not be asked again: there is only less room than before
    for one in sorted(waiting, key=in_turn):
        request = one.request
        elders = tuple(elder.request for elder in holding if elder.waited_seconds > one.waited_seconds)
        kind = _kind(request), tuple(elder.instance_id for elder in elders)
        if kind not in refused:
            found = placed(fleet, request, reservations.of(elders))
            if found is not None:
                woken.append(request.instance_id)
                fleet = fleet.plus(claims_of(found, request.instance_id, request.incarnation))
                reservations = Reservations(fleet)
                continue
            refused.add(kind)
        if one.waited_seconds >= hold_seconds and len(holding) < MOST_ELDERS:
            holding.append(one)
    return tuple(woken)


def _kind(request: PlacementRequest) -> object:
    """Requests of one kind fit into the same room."""
    spec = request.spec
    where = (*sorted(spec.worker_selector.items()), *spec.devices, *request.avoid)
    how = (spec.strategy, spec.cpu_offload, spec.distributed, spec.gpu_layers, spec.tensor_split, spec.overcommit)
    return request.profile, spec.options, request.files, spec.min_compute_capability, where, how
