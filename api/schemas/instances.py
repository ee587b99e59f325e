"""Instances as REST reads them."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from api.schemas.memory import EstimateRead, MemoryComparisonRead
from stoker.domain.deployments import InstanceState
from stoker.domain.measured_memory import compare_memory
from stoker.domain.naming import instance_workflow_id
from stoker.domain.statuses import InstanceStatus


class ShareRead(BaseModel):
    """What one device holds for the instance."""

    device: str
    kind: str
    layers: int
    claimed_bytes: int


class PlacementRead(BaseModel):
    """Where the instance is, and why there."""

    worker: str
    shares: list[ShareRead]
    claimed_bytes: int
    estimate: EstimateRead
    reason: str


class RejectionRead(BaseModel):
    """Why one worker or device was refused."""

    rule: str
    worker: str
    device: str
    message: str
    needed_bytes: int
    available_bytes: int
    short_bytes: int


class PendingRead(BaseModel):
    """Why the instance waits, and what would let it start."""

    summary: str
    rejections: list[RejectionRead]
    suggestions: list[str]


class ProgressRead(BaseModel):
    """How far a download (bytes) or a load has come."""

    done: int
    total: int
    fraction: float
    bytes_per_second: float


class InstanceRead(BaseModel):
    """One replica of a deployment."""

    id: str
    deployment: str
    generation: int
    incarnation: int
    state: InstanceState
    message: str
    placement: PlacementRead | None
    pending: PendingRead | None
    progress: ProgressRead | None
    pid: int | None
    load_seconds: float | None
    memory: list[MemoryComparisonRead] = Field(description="Estimate beside measurement: its devices, then its host.")
    workflow_id: str
    created_at: datetime
    state_since: datetime

    @classmethod
    def of_status(cls, status: InstanceStatus) -> Self:
        """The instance as read from its row."""
        placement, why, progress = status.placement, status.unplaceable, status.progress
        return cls(
            id=status.instance_id,
            deployment=status.deployment,
            generation=status.generation,
            incarnation=status.incarnation,
            state=status.state,
            message=status.message,
            placement=PlacementRead(
                worker=placement.worker,
                shares=[
                    ShareRead(device=s.device, kind=s.kind, layers=s.layers, claimed_bytes=s.claim)
                    for s in placement.shares
                ],
                claimed_bytes=placement.claimed,
                estimate=EstimateRead.of(placement.estimate),
                reason=placement.reason,
            )
            if placement
            else None,
            pending=PendingRead(
                summary=why.summary,
                rejections=[
                    RejectionRead(
                        rule=r.rule,
                        worker=r.worker,
                        device=r.device,
                        message=r.message,
                        needed_bytes=r.needed,
                        available_bytes=r.available,
                        short_bytes=r.short,
                    )
                    for r in why.rejections
                ],
                suggestions=list(why.suggestions),
            )
            if why
            else None,
            progress=ProgressRead(
                done=progress.done, total=progress.total, fraction=progress.fraction, bytes_per_second=progress.rate
            )
            if progress
            else None,
            pid=status.pid or None,
            load_seconds=status.load_seconds or None,
            memory=[MemoryComparisonRead.of(one) for one in compare_memory(placement, status.memory)]
            if placement
            else [],
            workflow_id=instance_workflow_id(status.instance_id),
            created_at=status.created_at,
            state_since=status.state_since,
        )
