"""What is observed, as rows keep it and people read it: the projections that workflows write, and what is read back."""

from datetime import datetime

from stoker.domain.base import Bytes, DeploymentName, DeviceId, InstanceId, Value, WorkerName
from stoker.domain.claims import Claim
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.gguf import ModelProfile
from stoker.domain.links import WorkerLink
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelFiles
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.revisions import OnTrial, RolledBack
from stoker.domain.scaling import wanted_replicas
from stoker.domain.workers import Worker


class DeploymentProjection(Value):
    """The deployment as its workflow wants it seen."""

    spec: DeploymentSpec
    generation: int
    profile: ModelProfile
    files: ModelFiles
    deleting: bool = False
    instances_generation: int = 0  # the generation that instances must be of; others are being replaced
    by: str = ""  # whose change it is: the name of a key; empty: Stoker itself, or nobody knows
    reason: str = ""  # for people: why, where that is known
    rolled_back: RolledBack | None = None  # the generation that this one took the place of by itself
    scaled: int | None = None  # replicas that demand asks for; None: demand was not looked at
    trial: OnTrial | None = None  # as long as no instance of `instances_generation` ran, where an earlier one's did

    def is_current(self, generation: int) -> bool:
        """Whether instances of that generation are those that are wanted: the earlier are replaced, and the later were
        rolled back."""
        return generation == (self.instances_generation or generation)

    @property
    def wanted_replicas(self) -> int:
        """So many instances are wanted now."""
        return wanted_replicas(self.spec, self.scaled)


class DeploymentStatus(DeploymentProjection):
    """A deployment as it is read back."""

    created_at: datetime
    updated_at: datetime


class InstanceProjection(Value):
    """The instance as its workflow wants it seen. Placement and reasons are written by the claiming transaction."""

    instance_id: InstanceId
    deployment: DeploymentName
    generation: int
    incarnation: int
    state: InstanceState
    message: str = ""
    port: int = 0  # of the main server, on its worker's address; 0: not routable
    pid: int = 0
    load_seconds: float = 0.0  # from the start of the main server to its first answer; 0: unknown
    memory: MeasuredMemory | None = None  # None until it runs, and where its engine does not tell


class FileProgress(Value):
    """How far one file of a download has come, in bytes."""

    path: str  # inside the repository
    done: Bytes
    total: Bytes


class Progress(Value):
    """How far a download (bytes) or a load (thousandths) has come."""

    done: Bytes = 0
    total: Bytes = 0
    rate: float = 0.0  # bytes a second; 0: unknown
    files: tuple[FileProgress, ...] = ()  # of a download: each of the model's files, first shard first

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.done / self.total if self.total else 0.0


class InstanceStatus(InstanceProjection):
    """An instance as it is read back."""

    placement: Placement | None = None
    unplaceable: Unplaceable | None = None
    progress: Progress | None = None
    links: tuple[WorkerLink, ...] = ()  # of a group: from its main server's worker to each of its peers, if known
    avoids: tuple[WorkerName, ...] = ()  # workers that failed it of late: taken only when no other fits
    created_at: datetime
    updated_at: datetime
    state_since: datetime


class WorkerStatus(Value):
    """A worker as it is read back, with the claims on its devices."""

    worker: Worker
    claims: tuple[Claim, ...] = ()
    joined_at: datetime
    seen_at: datetime


class DeviceUse(Value):
    """What was really in use on one device at a report, in bytes."""

    device: DeviceId
    used: Bytes


class Endpoint(Value):
    """One running main server as the proxy reaches it."""

    instance_id: InstanceId
    deployment: DeploymentName
    worker: WorkerName
    host: str
    port: int
    slots: int
    engine_key: str  # the key that this engine asks for; never leaves the server's memory
