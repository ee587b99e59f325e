"""Instances as REST reads them."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from api.schemas.memory import MemoryComparisonRead
from api.schemas.reasons import PendingRead, PlacementRead
from stoker.domain.deployments import InstanceState
from stoker.domain.links import WorkerLink
from stoker.domain.measured_memory import compare_memory
from stoker.domain.naming import instance_workflow_id
from stoker.domain.statuses import InstanceStatus


class FileProgressRead(BaseModel):
    """How far one file of a download has come, in bytes."""

    path: str
    done: int
    total: int


class ProgressRead(BaseModel):
    """How far a download (bytes) or a load has come."""

    done: int
    total: int
    fraction: float
    bytes_per_second: float
    files: list[FileProgressRead] = Field(default=[], description="Of a download: each of the model's files.")


class LinkRead(BaseModel):
    """The way from the main server's worker to one that lends it devices, as it was before the last start."""

    worker: str = Field(description="Where the main server runs.")
    peer: str = Field(description="Who lends it devices.")
    round_trip_seconds: float
    bytes_per_second: int
    problem: str = Field(description="Why it cannot be used; empty: it can.")
    checked_at: datetime

    @classmethod
    def of(cls, link: WorkerLink) -> Self:
        """What the check found."""
        return cls(**link.model_dump())


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
    links: list[LinkRead] = Field(description="Between its workers, where there are several.")
    avoids: list[str] = Field(
        description="Workers that failed it of late: used only where nothing else fits, until it has run elsewhere."
    )
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
            placement=PlacementRead.of(placement) if placement else None,
            pending=PendingRead.of(why) if why else None,
            progress=ProgressRead(
                done=progress.done,
                total=progress.total,
                fraction=progress.fraction,
                bytes_per_second=progress.rate,
                files=[FileProgressRead(**file.model_dump()) for file in progress.files],
            )
            if progress
            else None,
            pid=status.pid or None,
            load_seconds=status.load_seconds or None,
            memory=_memory(status),
            links=[LinkRead.of(link) for link in status.links],
            avoids=list(status.avoids),
            workflow_id=instance_workflow_id(status.instance_id),
            created_at=status.created_at,
            state_since=status.state_since,
        )


def _memory(status: InstanceStatus) -> list[MemoryComparisonRead]:
    """Of several workers' devices, each is named with its worker: all of them may have a gpu0."""
    placement = status.placement
    if placement is None:
        return []
    compared = [MemoryComparisonRead.of(one) for one in compare_memory(placement, status.memory)]
    if len(placement.workers) > 1:
        for one, share in zip(compared, placement.offloaded, strict=False):  # the last is the host's
            one.device = f"{placement.worker_of(share)}/{share.device}"
    return compared
