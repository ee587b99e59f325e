"""What a change would do: reads what there is, and asks the pure functions. Nothing is changed."""

from datetime import datetime

from sqlmodel import Session

from api.deployment_calls import remembered
from api.deps import ApiContext
from api.errors import ProblemError
from api.inspection_calls import inspect_model
from api.schemas.rollouts import RolloutPlanRead
from api.what_if_calls import known_model, place_next
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.gguf import ModelProfile
from stoker.domain.placement.types import PlacementRequest
from stoker.domain.rollout import Replica
from stoker.domain.rollout_plan import plan_rollout
from stoker.domain.statuses import DeploymentStatus
from stoker.storage.deployments import Deployments
from stoker.storage.instances import Instances


async def rollout_plan(
    context: ApiContext, spec: DeploymentSpec, *, expected_generation: int | None = None
) -> RolloutPlanRead:
    """What applying `spec` would do now. The model is read where it is not known; what could never run is refused.

    Raises ProblemError, as applying it would.
    """

    def read(session: Session, now: datetime) -> tuple[DeploymentStatus | None, tuple[Replica, ...]]:
        status = Deployments(session, now).get(spec.name)
        state = remembered(status, Instances(session, now).all(deployment=spec.name))
        return status, state.replicas if state is not None else ()

    status, replicas = await context.read(read)
    if status is not None and status.deleting:
        raise ProblemError("deployment_deleting", f"{spec.name} is being deleted")
    if status is not None and expected_generation not in (None, status.generation):
        raise ProblemError(
            "generation_conflict", f"{spec.name} is at generation {status.generation}, not {expected_generation}"
        )
    scaled = status.scaled if status is not None else None
    trial = status.trial if status is not None else None
    plan = plan_rollout(status.spec if status is not None else None, spec, replicas, scaled, trial)
    files, profile = await known_model(context, spec) or await inspect_model(
        context.temporal, context.models, spec.model
    )
    on_gpu, on_cpu = (_needed(profile, spec, split) for split in (whole(profile), ()))
    outcome, beside = None, True
    if plan.starts:
        request = PlacementRequest(instance_id=spec.name, incarnation=1, spec=spec, profile=profile, files=files)
        outcome, beside = await place_next(context, request, ended=plan.ended_first, makes_room=plan.makes_room)
    return RolloutPlanRead.of(
        status, spec, plan, outcome=outcome, beside=beside, on_gpu_bytes=on_gpu, on_cpu_bytes=on_cpu
    )


def _needed(profile: ModelProfile, spec: DeploymentSpec, split: tuple[int, ...]) -> int:
    """Bytes on all devices and the host together."""
    outcome = estimate(profile, spec.options, split)
    if isinstance(outcome, EstimateRefusal):
        raise ProblemError("unsupported_model", outcome.message)
    return sum(device.total for device in outcome.devices) + outcome.host.total
