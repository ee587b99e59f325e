"""Changes of a deployment as REST tells them: what one would do, and those that were made."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.deployments import DeploymentCreate
from api.schemas.integers import Integer
from api.schemas.reasons import PendingRead, PlacementRead
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.field_changes import deployment_changes
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.revisions import Revision, RevisionState
from stoker.domain.rollout_plan import RolloutAction, RolloutPlan, takes_back
from stoker.domain.statuses import DeploymentStatus


class FieldChangeRead(BaseModel):
    """One field of the deployment, dotted, and its values."""

    field: str
    before: Any
    after: Any

    @classmethod
    def between(cls, before: DeploymentSpec, after: DeploymentSpec) -> list[Self]:
        """What differs."""
        return [cls(**change.model_dump()) for change in deployment_changes(before, after)]


def _replaces_instances(status: DeploymentStatus, spec: DeploymentSpec) -> bool:
    taken_back = status.trial is not None and takes_back(status.trial, spec)
    return not taken_back and not status.spec.same_instances(spec)


class RolloutPlanRead(BaseModel):
    """What a change would do. Nothing of it is done, claimed or kept."""

    name: str
    action: RolloutAction
    generation: int = Field(description="Today's; 0: there is no such deployment.")
    changes: list[FieldChangeRead] = Field(description="Fields that would change; none of one that would be made.")
    replaces_instances: bool = Field(description="Whether instances must be made anew for it.")
    replaced: int = Field(description="Instances that would be replaced, one at a time: a new one runs first.")
    started: int = Field(description="Instances that would be started besides.")
    stopped: int = Field(description="Instances that would be stopped besides.")
    surge: int = Field(description="Instances that may be there beyond those wanted while it rolls.")
    placement: PlacementRead | None = Field(description="Where the first new instance would go now.")
    pending: PendingRead | None = Field(description="Why it would wait now.")
    makes_room: str | None = Field(description="The old instance that would stop first, for want of room beside it.")
    on_gpu_bytes: int = Field(description="What one instance takes on one device and its host, all layers offloaded.")
    on_cpu_bytes: int = Field(description="What one instance takes on the CPU alone.")

    @classmethod
    def of(
        cls,
        status: DeploymentStatus | None,
        spec: DeploymentSpec,
        plan: RolloutPlan,
        *,
        outcome: Placement | Unplaceable | None,
        beside: bool,
        on_gpu_bytes: int,
        on_cpu_bytes: int,
    ) -> Self:
        """`outcome`: of the first new instance, None where there is none; `beside`: nobody makes room for it."""
        return cls(
            name=spec.name,
            action=plan.action,
            generation=status.generation if status is not None else 0,
            changes=FieldChangeRead.between(status.spec, spec) if status is not None else [],
            replaces_instances=status is not None and _replaces_instances(status, spec),
            replaced=plan.replaced,
            started=plan.started,
            stopped=plan.stopped,
            surge=1 if plan.replaced else 0,
            placement=PlacementRead.of(outcome) if isinstance(outcome, Placement) else None,
            pending=PendingRead.of(outcome) if isinstance(outcome, Unplaceable) else None,
            makes_room=None if beside else plan.makes_room,
            on_gpu_bytes=on_gpu_bytes,
            on_cpu_bytes=on_cpu_bytes,
        )


class RevisionRead(BaseModel):
    """What the deployment was made to be by one change."""

    generation: int
    instances_generation: int = Field(description="The generation of the instances that answer it.")
    state: RevisionState
    ran: bool = Field(description="Whether an instance that answers it ever ran.")
    by: str = Field(description="The name of the key that made the change; empty: Stoker itself, or it is not known.")
    reason: str = Field(description="Why it came to be, or was given up; empty: somebody asked for it.")
    created_at: datetime
    deployment: DeploymentCreate = Field(description="The whole of it, as it could be posted again.")
    changes: list[FieldChangeRead] = Field(description="Against the revision before it, where that is still known.")

    @classmethod
    def of(cls, revision: Revision, before: Revision | None) -> Self:
        """`before`: the revision of the generation before it, if it is still known."""
        return cls(
            generation=revision.generation,
            instances_generation=revision.instances_generation,
            state=revision.state,
            ran=revision.ran,
            by=revision.by,
            reason=revision.reason,
            created_at=revision.created_at,
            deployment=DeploymentCreate.of(revision.spec),
            changes=FieldChangeRead.between(before.spec, revision.spec) if before is not None else [],
        )


class RevisionsRead(BaseModel):
    """The revisions that are remembered, the latest first."""

    data: list[RevisionRead]


class UndoCreate(BaseModel):
    """What is wanted again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"generation": 3}})

    generation: Integer | None = Field(
        default=None, ge=1, description="Of a revision; null: the last before the current one that ran and differs."
    )
