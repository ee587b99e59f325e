"""The values of a placement decision: what was asked, what was decided, and why not elsewhere."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator

from stoker.domain.base import Bytes, DeviceId, InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles
from stoker.domain.workers import DeviceKind


class PlacementRequest(Value):
    """One instance that wants a place."""

    instance_id: InstanceId
    incarnation: int
    generation: int = 1  # of the deployment
    spec: DeploymentSpec
    profile: ModelProfile
    files: ModelFiles
    avoid: tuple[WorkerName, ...] = ()  # workers that failed this instance of late: taken only when no other fits


class Tier(StrEnum):
    """The ways to place a model, best first: the first one that fits is taken."""

    ONE_DEVICE = "one_device"  # whole, on one GPU
    ONE_WORKER = "one_worker"  # whole, on several GPUs of one worker
    SEVERAL_WORKERS = "several_workers"  # whole, on GPUs of several workers, over RPC
    PART_ON_CPU = "part_on_cpu"  # the last layers on one worker's GPUs, the others on its CPU
    PART_ON_CPU_SEVERAL_WORKERS = "part_on_cpu_several_workers"  # the same with GPUs of several workers
    CPU = "cpu"  # whole, on one worker's CPU
    CPU_SEVERAL_WORKERS = "cpu_several_workers"  # CPUs of several workers, with their GPUs if there are any


class DeviceShare(Value):
    """What one device of the placement holds."""

    device: DeviceId
    kind: DeviceKind
    worker: WorkerName | Literal[""] = ""  # whose device it is; empty: the main server's
    engine_name: str = ""  # llama.cpp's name for it on its own worker; empty for the CPU
    layers: int  # offloaded layers, the output layer counted as one; 0: it only books its worker's RAM
    claim: Bytes


class Placement(Value):
    """Where one incarnation of an instance runs. Shares with layers come first, in the order of --device."""

    worker: WorkerName  # where the main server runs
    shares: tuple[DeviceShare, ...]
    estimate: MemoryEstimate
    tier: Tier = Tier.ONE_DEVICE
    reason: str = ""  # one sentence for people: why here
    warning: str = ""  # what may go wrong because it was asked for so; empty: nothing

    @property
    def claimed(self) -> int:
        """Bytes claimed on all devices together."""
        return sum(share.claim for share in self.shares)

    @property
    def offloaded(self) -> tuple[DeviceShare, ...]:
        """The shares that hold layers, in the order of --device and of the estimate's devices."""
        return tuple(share for share in self.shares if share.layers)

    @property
    def workers(self) -> tuple[WorkerName, ...]:
        """The main server's worker, then those that lend it devices, in the order of their devices."""
        return tuple(dict.fromkeys((self.worker, *(self.worker_of(share) for share in self.shares))))

    def worker_of(self, share: DeviceShare) -> WorkerName:
        """Whose device the share is on."""
        return share.worker or self.worker


class Rule(StrEnum):
    """The rules that can refuse a worker, a device or a whole tier; each is one check."""

    NO_WORKERS = "no_workers"
    UNREACHABLE = "worker_unreachable"
    CORDONED = "worker_cordoned"
    DRAINING = "worker_draining"
    NO_DEVICES = "no_devices"
    NO_ENGINE = "no_engine"
    SELECTOR = "selector_mismatch"
    FILE_MISSING = "file_missing"
    DEVICE_NOT_CHOSEN = "device_not_chosen"
    NO_SUCH_DEVICE = "no_such_device"
    COMPUTE_CAPABILITY = "compute_capability_too_low"
    CPU_NOT_ALLOWED = "cpu_not_allowed"
    NOT_DISTRIBUTED = "distribution_not_allowed"
    NO_RPC = "no_rpc"  # it cannot be in a group of several workers
    ENGINE_MISMATCH = "engine_mismatch"  # its engine differs from those that the others have
    TOO_FEW_DEVICES = "too_few_devices"
    RESERVED = "reserved"  # for one that has waited longer
    MEMORY = "not_enough_memory"
    HOST_MEMORY = "not_enough_host_memory"
    UNSUPPORTED = "unsupported_model"


class Rejection(Value):
    """Why one worker (or one device of it) was refused, in words and, where it is about memory, in bytes."""

    rule: Rule
    tier: Tier | None = None  # None: whatever the tier
    worker: WorkerName | Literal[""] = ""  # empty: it is not about one worker
    device: DeviceId = ""  # empty: it is about the whole worker
    message: str
    needed: Bytes = 0
    available: Bytes = 0

    @property
    def short(self) -> int:
        """Bytes missing; 0 when the refusal is not about memory."""
        return max(0, self.needed - self.available)


class TierOutcome(Value):
    """Why one tier has no place: the rule that failed where it came nearest, and by how much."""

    tier: Tier
    rule: Rule
    message: str  # one sentence
    short: Bytes = 0  # bytes missing there, 0 when it is not about memory
    layers: int = 0  # most layers that it could have held on devices
    of_layers: int = 0  # that it would have had to


class Suggestion(Value):
    """A change that was verified, by placing again, to make it fit now."""

    text: str  # "set context_length to 8192: fits on gpu-2"
    changes: dict[str, int | bool | str] = Field(default_factory=dict)  # fields of the spec: "options.context_length"


class DeviceName(Value):
    """One device of the fleet."""

    worker: WorkerName
    device: DeviceId


MAX_REJECTIONS = 100
"""So many are kept whole, the nearest misses first; the others are counted by rule: a workflow's payload is small."""


class Unplaceable(Value):
    """Nothing fits now. `summary` is one line for people; `suggestions` are changes that would make it fit."""

    rejections: tuple[Rejection, ...]  # nearest miss first, at most MAX_REJECTIONS
    more: dict[Rule, int] = Field(default_factory=dict)  # how many others there are, by rule
    tiers: tuple[TierOutcome, ...] = ()  # those that the spec allows, in their order
    summary: str
    suggestions: tuple[Suggestion, ...] = ()
    reserved: tuple[DeviceName, ...] = ()  # kept free of younger ones for this one, which has waited long
    fits_instead: bool | None = None  # in the place of its deployment's instances of other generations; None: of none

    @field_validator("suggestions", mode="before")
    @classmethod
    def _read_texts(cls, value: object) -> object:
        """Rows from before 0.1 have texts alone."""
        if not isinstance(value, list | tuple):
            return value
        return [{"text": one} if isinstance(one, str) else one for one in value]

    @property
    def lacks_room(self) -> bool:
        """Whether room alone is missing: others ending, or more devices, would help."""
        if self.rejections and self.rejections[0].rule is Rule.NO_SUCH_DEVICE:
            return False
        rules = {*(one.rule for one in self.tiers), *(one.rule for one in self.rejections)}
        return not rules.isdisjoint((Rule.MEMORY, Rule.HOST_MEMORY, Rule.RESERVED))

    @property
    def asks_for_room(self) -> bool:
        """Whether one of its own deployment, which it is to replace, should stop for it: not in vain."""
        return self.lacks_room if self.fits_instead is None else self.fits_instead
