"""The values of a placement decision: what was asked, what was decided, and why not elsewhere."""

from enum import StrEnum
from typing import Literal

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


class DeviceShare(Value):
    """What one device of the placement holds."""

    device: DeviceId
    kind: DeviceKind
    engine_name: str = ""  # llama.cpp's name for it; empty for the CPU
    layers: int  # offloaded layers, the output layer counted as one; 0 for the CPU
    claim: Bytes


class Placement(Value):
    """Where one incarnation of an instance runs. First cut: one worker; `shares` in the order of --device."""

    worker: WorkerName
    shares: tuple[DeviceShare, ...]
    estimate: MemoryEstimate
    reason: str = ""  # one sentence for people: why here

    @property
    def claimed(self) -> int:
        """Bytes claimed on all devices together."""
        return sum(share.claim for share in self.shares)


class Rule(StrEnum):
    """The rules that can refuse a worker or a device; each is one check."""

    NO_WORKERS = "no_workers"
    UNREACHABLE = "worker_unreachable"
    CORDONED = "worker_cordoned"
    NO_DEVICES = "no_devices"
    NO_ENGINE = "no_engine"
    SELECTOR = "selector_mismatch"
    FILE_MISSING = "file_missing"
    DEVICE_NOT_CHOSEN = "device_not_chosen"
    NO_SUCH_DEVICE = "no_such_device"
    CPU_NOT_ALLOWED = "cpu_not_allowed"
    MEMORY = "not_enough_memory"
    HOST_MEMORY = "not_enough_host_memory"
    UNSUPPORTED = "unsupported_model"


class Rejection(Value):
    """Why one worker (or one device of it) was refused, in words and, where it is about memory, in bytes."""

    rule: Rule
    worker: WorkerName | Literal[""] = ""  # empty: it is not about one worker
    device: DeviceId = ""  # empty: it is about the whole worker
    message: str
    needed: Bytes = 0
    available: Bytes = 0

    @property
    def short(self) -> int:
        """Bytes missing; 0 when the refusal is not about memory."""
        return max(0, self.needed - self.available)


class Unplaceable(Value):
    """Nothing fits now. `summary` is one line for people; `suggestions` are changes that would make it fit."""

    rejections: tuple[Rejection, ...]
    summary: str
    suggestions: tuple[str, ...] = ()
