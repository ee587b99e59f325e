"""What an administrator asks for, and the life of the instances that answer it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

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


class DeploymentSpec(Value):
    """What is wanted: a model, how many replicas of it, and where they may go."""

    name: DeploymentName
    model: ModelSource
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    options: EngineOptions = EngineOptions()
    strategy: Strategy = Strategy.SPREAD
    worker_selector: dict[LabelText, LabelText] = Field(default_factory=dict)
    devices: tuple[tuple[WorkerName, DeviceId], ...] = ()  # the only ones that may be used; empty: any
    cpu_offload: bool = False  # whether a host that has GPUs may use its CPU; a host without GPUs always may
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0  # higher is served first when room is short

    def same_instances(self, other: "DeploymentSpec") -> bool:
        """Whether instances made for `other` answer this spec too: only replicas or priority changed."""
        return self.model_copy(update={"replicas": other.replicas, "priority": other.priority}) == other


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
