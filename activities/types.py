"""Inputs and results of activities: one frozen value in, one out. New fields need defaults: old histories replay."""

from stoker.domain.base import Bytes, DeploymentName, InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelFiles, ModelSource
from stoker.domain.placement.types import Placement, Unplaceable


class InspectInput(Value):
    """Which model to read the header of."""

    source: ModelSource


class InspectedModel(Value):
    """A model's files, and what their header says."""

    files: ModelFiles
    profile: ModelProfile


class EstimateInput(Value):
    """Which model is to be served how."""

    spec: DeploymentSpec
    profile: ModelProfile


class EstimateResult(Value):
    """What the whole model needs on one GPU, and on a CPU."""

    on_gpu: MemoryEstimate
    on_cpu: MemoryEstimate


class InspectResult(Value):
    """What a host says of a file: None when it does not have it."""

    model: InspectedModel | None = None


class ReadyWorkersInput(Value):
    """For which deployment workers are looked for."""

    spec: DeploymentSpec


class ReadyWorkersResult(Value):
    """Names of the workers that are there and admitted by the spec."""

    workers: tuple[WorkerName, ...]


class PlaceResult(Value):
    """Exactly one of the two is set."""

    placement: Placement | None = None
    unplaceable: Unplaceable | None = None


class ReleaseInput(Value):
    """Whose claims to give back; all incarnations' when `incarnation` is None."""

    instance_id: InstanceId
    incarnation: int | None = None


class ReleaseResult(Value):
    """The pending instances that were told that they may fit now."""

    woken: tuple[InstanceId, ...]


class RemoveDeploymentInput(Value):
    """Which deployment's rows go."""

    name: DeploymentName


class RemoveInstanceInput(Value):
    """Which instance's row goes."""

    instance_id: InstanceId


class SweepInput(Value):
    """The instances that a deployment believes to be alive."""

    instance_ids: tuple[InstanceId, ...]


class SweepResult(Value):
    """Those whose workflow is gone (terminated, say); their claims are given back."""

    ended: tuple[InstanceId, ...]


class FetchInput(Value):
    """Which files to make present on this host."""

    instance_id: InstanceId
    files: ModelFiles


class FetchResult(Value):
    """Where the engine finds the first shard, and how many bytes came over the network."""

    model_path: str
    fetched: Bytes = 0


class MainReady(Value):
    """Signalled to the instance when its main server answers; again by every agent that adopts it.

    With port 0 it takes back an earlier one: the server that answered is gone, and another one loads in its place.
    """

    incarnation: int
    port: int
    pid: int
    adopted: bool = False
    load_seconds: float = 0.0  # from the process's start to its first answer; 0 where that was not seen
    memory: MeasuredMemory | None = None  # None where its engine does not tell


class DrainInput(Value):
    """Which process to drain, and for how long at most."""

    instance_id: InstanceId
    incarnation: int
    settle_seconds: float
    timeout_seconds: float


class DrainResult(Value):
    """Whether the last request had ended before the deadline."""

    idle: bool


class ProcessEnd(Value):
    """How a process ended by itself."""

    exit_code: int | None = None
    cause: str
    retryable: bool = True
