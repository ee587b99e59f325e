"""What would be, if: reads what there is, and asks the pure functions. Nothing is claimed and no row is written."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session

from api.deps import ApiContext
from api.errors import not_found
from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.claims import Claim, Snapshot
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles
from stoker.domain.placement.fleet import Fleet, capability
from stoker.domain.placement.place import place
from stoker.domain.placement.reservations import holders
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.placement.what_if import (
    Drained,
    Machine,
    Occupant,
    Simulation,
    added,
    drained,
    file_on,
    simulate,
)
from stoker.domain.workers import Worker
from stoker.storage.deployments import Deployments
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers

_ENDING = (InstanceState.STOPPING, InstanceState.STOPPED)


class Change(NamedTuple):
    """How the fleet would differ from today's."""

    machines: Sequence[Machine] = ()
    without: Sequence[WorkerName] = ()


class _Scene(NamedTuple):
    """What there is at one moment."""

    workers: dict[WorkerName, Worker]
    claims: dict[InstanceId, tuple[Claim, ...]]

    def fleet(self, change: Change) -> Fleet:
        """Without the workers that would be gone. Raises ProblemError for one that is not there."""
        for name in change.without:
            if name not in self.workers:
                raise not_found("worker", name)
        claims = (claim for held in self.claims.values() for claim in held)
        return Fleet.of(Snapshot.of(self.workers.values(), claims)).without(change.without)


async def simulate_deployment(
    context: ApiContext, spec: DeploymentSpec, files: ModelFiles, profile: ModelProfile, change: Change
) -> Simulation:
    """Where all instances of `spec` would go, at least one.

    As if they were placed anew: what those of a deployment of that name hold is given back first, and they have waited
    as long as they have. Raises ProblemError.
    """

    def read(session: Session, now: datetime) -> tuple[_Scene, list[Claim]]:
        scene = _scene(session, now)
        own = Instances(session, now).all(deployment=spec.name)
        return scene, [claim for one in own for claim in scene.claims.get(one.instance_id, ())]

    scene, held = await context.read(read)
    waiting = await context.in_thread(context.ledger.waiting)
    request = PlacementRequest(instance_id=spec.name, incarnation=1, spec=spec, profile=profile, files=files)

    def work() -> Simulation:
        fleet, names = added(
            scene.fleet(change).minus(held),
            change.machines,
            labels=spec.worker_selector,
            compute_capability=spec.min_compute_capability or "",
        )
        own = [one.waited_seconds for one in waiting if one.request.spec.name == spec.name]
        others = [one for one in waiting if one.request.spec.name != spec.name]
        stronger = holders(others, spec.priority, max(own, default=0.0), hold_seconds=context.pending_hold)
        return simulate(fleet, file_on(request, names), max(1, spec.replicas), stronger)

    return await context.in_thread(work)


async def place_next(
    context: ApiContext, request: PlacementRequest, *, ended: Sequence[InstanceId], makes_room: InstanceId
) -> tuple[Placement | Unplaceable, bool]:
    """Where one more instance would go beside all there are but those that `ended`, and that it is beside them.

    Where it has no place so, `makes_room` (empty: nobody) stops for it: where it would go then, and False.
    """
    scene = await context.read(_scene)
    waiting = await context.in_thread(context.ledger.waiting)

    def held(names: Sequence[InstanceId]) -> list[Claim]:
        return [claim for name in names for claim in scene.claims.get(name, ())]

    def work() -> tuple[Placement | Unplaceable, bool]:
        others = [one for one in waiting if one.request.spec.name != request.spec.name]
        stronger = holders(others, request.spec.priority, 0.0, hold_seconds=context.pending_hold)
        fleet = scene.fleet(Change()).minus(held(ended))
        outcome = place(fleet, request, stronger)
        if isinstance(outcome, Placement) or not makes_room:
            return outcome, True
        instead = place(fleet.minus(held([makes_room])), request, stronger)
        return (instead, False) if isinstance(instead, Placement) else (outcome, True)

    return await context.in_thread(work)


async def preview_drain(context: ApiContext, name: WorkerName, change: Change | None = None) -> Drained:
    """Where the worker's instances would go, as their deployments would start them today. Raises ProblemError."""
    change = change or Change()

    def read(session: Session, now: datetime) -> tuple[_Scene, list[Occupant]]:
        scene = _scene(session, now)
        return scene, _occupants(session, now, name, scene.claims)

    scene, occupants = await context.read(read)
    if name not in scene.workers:
        raise not_found("worker", name)
    waiting = await context.in_thread(context.ledger.waiting)

    def work() -> Drained:
        asked = [one.request.spec.min_compute_capability for one in occupants]
        fleet, names = added(
            scene.fleet(change),
            change.machines,
            labels=scene.workers[name].labels,
            compute_capability=max((one for one in asked if one is not None), key=capability, default=""),
        )
        movable = [one.model_copy(update={"request": file_on(one.request, names)}) for one in occupants]
        return drained(fleet, name, movable, waiting, hold_seconds=context.pending_hold)

    return await context.in_thread(work)


async def known_model(context: ApiContext, spec: DeploymentSpec) -> tuple[ModelFiles, ModelProfile] | None:
    """What was read of the model when a deployment of that name was made with it; None: it must be read."""
    status = await context.read(lambda session, now: Deployments(session, now).get(spec.name))
    if status is None or status.spec.model != spec.model:
        return None
    return status.files, status.profile


def _occupants(
    session: Session, now: datetime, name: WorkerName, claims: Mapping[InstanceId, tuple[Claim, ...]]
) -> list[Occupant]:
    """Those that would have to move: not those that end anyway, by themselves or with their deployments."""
    deployments = Deployments(session, now)
    found = []
    for instance in Instances(session, now).on_worker(name):
        status = deployments.get(instance.deployment)
        if status is None or status.deleting or instance.state in _ENDING:
            continue
        request = PlacementRequest(
            instance_id=instance.instance_id,
            incarnation=1,
            generation=status.generation,
            spec=status.spec,
            profile=status.profile,
            files=status.files,
        )
        found.append(
            Occupant(
                request=request,
                claims=claims.get(instance.instance_id, ()),
                priority=status.spec.priority,
                age_seconds=(now - instance.created_at).total_seconds(),
            )
        )
    return found


def _scene(session: Session, now: datetime) -> _Scene:
    statuses = Workers(session, now).all()
    claims: dict[InstanceId, tuple[Claim, ...]] = {}
    for status in statuses:
        for claim in status.claims:
            claims[claim.instance_id] = (*claims.get(claim.instance_id, ()), claim)
    return _Scene(workers={status.worker.name: status.worker for status in statuses}, claims=claims)
