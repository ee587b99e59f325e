"""What an administrator asks for, and the life of the instances that answer it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from stoker.domain.base import DeploymentName, DeviceId, Value, WorkerName
from stoker.domain.models import ModelSource


class CacheType(StrEnum):
    """An element type of the KV cache."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"


class Strategy(StrEnum):
    """How candidates of one tier are ranked: the emptiest device first, or the fullest that still fits."""

    SPREAD = "spread"
    BINPACK = "binpack"


class EngineOptions(Value):
    """The llama-server options that an administrator may set. Typed one by one: nothing else reaches a command line."""

    context_length: Annotated[int, Field(ge=128, le=16_777_216)] | None = None  # tokens a slot; None: Stoker chooses
    slots: Annotated[int, Field(ge=1, le=256)] = 4  # requests answered at once
    cache_type: CacheType = CacheType.F16  # of keys, and of values too unless cache_type_v says otherwise
    cache_type_v: CacheType | None = None  # of values; GPU kernels for flash attention exist for equal types only
    flash_attention: bool = True
    kv_unified: bool = False  # all slots share one cache of slots x context_length, and each may use all of it
    batch: Annotated[int, Field(ge=32, le=16_384)] = 2048  # tokens
    micro_batch: Annotated[int, Field(ge=32, le=8_192)] = 512  # tokens
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    embeddings: bool = False

    @property
    def value_cache_type(self) -> CacheType:
        """The element type of cached values."""
        return self.cache_type_v or self.cache_type


LabelText = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]


COMPUTE_CAPABILITY_PATTERN = r"^[0-9]{1,2}\.[0-9]$"
COMPUTE_CAPABILITY_HINT = "major and minor number, as in 8.0"

MAX_SPLIT = 15
"""Devices of one llama-server: llama.cpp's GGML_SCHED_MAX_BACKENDS, less the CPU."""


def split_fault(split: Sequence[int], gpu_layers: int | None, devices: Sequence[tuple[WorkerName, DeviceId]]) -> str:
    """Why a tensor split cannot be followed, whatever the model, and what would be right; empty: it can."""
    if len(split) > MAX_SPLIT:
        return f"it names {len(split)} devices, and llama.cpp takes at most {MAX_SPLIT}"
    if split and gpu_layers is not None and sum(split) != gpu_layers:
        return f"its sum is {sum(split)} and gpu_layers is {gpu_layers}: make them equal, or leave gpu_layers out"
    if devices and len(split) > len(devices):
        return f"it is for {len(split)} devices, and devices names {len(devices)}: name as many"
    return ""


def overcommit_fault(overcommit: bool, devices: Sequence[tuple[WorkerName, DeviceId]]) -> str:
    """Why memory may not be overcommitted, and what would be right; empty: it may, or is not to be."""
    if overcommit and not devices:
        return "only chosen devices are overcommitted: name them in devices, as in box-1:cuda:0"
    return ""


def scaling_fault(min_replicas: int | None, max_replicas: int | None) -> str:
    """Why replicas cannot be scaled between these, and what would be right; empty: they can, or are not to be."""
    if min_replicas is not None and max_replicas is not None and min_replicas > max_replicas:
        return f"it is {max_replicas} and min_replicas is {min_replicas}: make it {min_replicas} or more"
    return ""


DEFAULT_IDLE_TIMEOUT = 600
LEAST_IDLE_TIMEOUT, MOST_IDLE_TIMEOUT = 5, 30 * 86_400
"""Seconds. What was asked of a model is known to the control plane some seconds later."""

DEFAULT_QUEUE = 128
MAX_QUEUE = 100_000


_NOT_OF_INSTANCES = ("replicas", "min_replicas", "max_replicas", "idle_timeout", "priority", "queue")


class DeploymentSpec(Value):
    """What is wanted: a model, how many replicas of it, and where they may go."""

    name: DeploymentName
    model: ModelSource
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    options: EngineOptions = EngineOptions()
    strategy: Strategy = Strategy.SPREAD
    worker_selector: dict[LabelText, LabelText] = Field(default_factory=dict)
    devices: tuple[tuple[WorkerName, DeviceId], ...] = ()  # the only ones that may be used; empty: any
    cpu_offload: bool = False  # whether CPUs may compute layers; where no GPU could be asked, they may anyway
    distributed: bool = True  # whether several workers may share the model over RPC
    gpu_layers: Annotated[int, Field(ge=0)] | None = None  # of the model's last, the output counted; None: Stoker's
    tensor_split: tuple[Annotated[int, Field(ge=1)], ...] = ()  # layers of each device, in order; empty: Stoker's
    min_compute_capability: Annotated[str, Field(pattern=COMPUTE_CAPABILITY_PATTERN)] | None = (
        None  # NVIDIA's, like "8.0"
    )
    overcommit: bool = False  # whether the `devices` named here are used even where the memory does not suffice
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0  # higher is served first when room is short
    queue: Annotated[int, Field(ge=0, le=MAX_QUEUE)] = (
        DEFAULT_QUEUE  # requests that may wait for a slot, of all replicas
    )
    min_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None  # with either of the two, replicas are scaled by
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None  # demand; see `stoker.domain.scaling`
    idle_timeout: Annotated[int, Field(ge=LEAST_IDLE_TIMEOUT, le=MOST_IDLE_TIMEOUT)] = (
        DEFAULT_IDLE_TIMEOUT  # seconds for which fewer must have sufficed until they are fewer
    )

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        faults = {
            "tensor_split": split_fault(self.tensor_split, self.gpu_layers, self.devices),
            "overcommit": overcommit_fault(self.overcommit, self.devices),
            "max_replicas": scaling_fault(self.min_replicas, self.max_replicas),
        }
        for field, fault in faults.items():
            if fault:
                raise ValueError(f"{field}: {fault}")
        return self

    def same_instances(self, other: "DeploymentSpec") -> bool:
        """Whether instances made for `other` answer this spec too: only how many, priority or queue changed."""
        theirs = {name: getattr(other, name) for name in _NOT_OF_INSTANCES}
        return self.model_copy(update=theirs) == other


class InstanceState(StrEnum):
    """Where an instance is in its life; see TRANSITIONS."""

    PLACING = "placing"
    PENDING = "pending"  # nothing fits: waits for room, with its reasons
    DOWNLOADING = "downloading"
    STARTING = "starting"  # processes up, model loading
    RUNNING = "running"
    STOPPING = "stopping"
    BACKOFF = "backoff"  # it ended by itself; the next incarnation starts after a pause
    FAILED = "failed"  # starting again cannot help: waits for a changed spec or its removal
    STOPPED = "stopped"


TRANSITIONS: dict[InstanceState, frozenset[InstanceState]] = {
    InstanceState.PLACING: frozenset(
        {
            InstanceState.PENDING,
            InstanceState.DOWNLOADING,
            InstanceState.STARTING,
            InstanceState.BACKOFF,
            InstanceState.FAILED,
            InstanceState.STOPPING,
        }
    ),
    InstanceState.PENDING: frozenset({InstanceState.PLACING, InstanceState.STOPPING}),
    InstanceState.DOWNLOADING: frozenset(
        {InstanceState.STARTING, InstanceState.BACKOFF, InstanceState.FAILED, InstanceState.STOPPING}
    ),
    InstanceState.STARTING: frozenset(
        {InstanceState.RUNNING, InstanceState.BACKOFF, InstanceState.FAILED, InstanceState.STOPPING}
    ),
    InstanceState.RUNNING: frozenset({InstanceState.BACKOFF, InstanceState.FAILED, InstanceState.STOPPING}),
    InstanceState.BACKOFF: frozenset({InstanceState.PLACING, InstanceState.STOPPING}),
    InstanceState.FAILED: frozenset({InstanceState.STOPPING}),
    InstanceState.STOPPING: frozenset({InstanceState.STOPPED}),
    InstanceState.STOPPED: frozenset(),
}


def is_transition_allowed(old: InstanceState, new: InstanceState) -> bool:
    """Whether an instance may go from `old` to `new`. Staying is always allowed: projections are repeated."""
    return old is new or new in TRANSITIONS[old]
