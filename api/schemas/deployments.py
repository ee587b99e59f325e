"""Deployments as REST writes and reads them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from api.schemas.devices import parse_device, parse_devices
from api.schemas.instances import InstanceRead
from api.schemas.integers import Integer
from stoker.domain.base import DEPLOYMENT_NAME_HINT, DEPLOYMENT_NAME_PATTERN
from stoker.domain.deployments import (
    COMPUTE_CAPABILITY_PATTERN,
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_QUEUE,
    LEAST_IDLE_TIMEOUT,
    MAX_QUEUE,
    MOST_IDLE_TIMEOUT,
    CacheType,
    DeploymentSpec,
    EngineOptions,
    InstanceState,
    LabelText,
    Strategy,
    overcommit_fault,
    scaling_fault,
    split_fault,
)
from stoker.domain.models import ModelSource, SourceKind
from stoker.domain.scaling import is_autoscaled
from stoker.domain.statuses import DeploymentStatus, InstanceStatus

_CLEARED_BY_NULL = ("gpu_layers", "min_compute_capability", "min_replicas", "max_replicas")
"""Fields of a change for which null is a value: Stoker's own choice, or none."""


class OptionsWrite(BaseModel):
    """How the engine serves the model."""

    model_config = ConfigDict(extra="forbid")

    context_length: Integer | None = Field(
        default=None, ge=128, le=16_777_216, description="Tokens a request may use; null: up to 8192, as trained."
    )
    slots: Integer = Field(default=4, ge=1, le=256, description="Requests answered at once.")
    cache_type: CacheType = Field(default=CacheType.F16, description="Element type of the KV cache.")
    cache_type_v: CacheType | None = Field(
        default=None, description="Element type of its values, where they differ from the keys; null: the same."
    )
    flash_attention: bool = Field(default=True, description="Compute attention piece by piece: less memory.")
    kv_unified: bool = Field(default=False, description="All slots share one KV cache, and each may use all of it.")
    batch: Integer = Field(
        default=2048, ge=32, le=16_384, description="Tokens a logical batch; where CPUs compute, one micro-batch."
    )
    micro_batch: Integer = Field(default=512, ge=32, le=8_192, description="Tokens a physical batch.")
    threads: Integer | None = Field(default=None, ge=1, le=1024, description="CPU threads; null: the engine's choice.")
    embeddings: bool = Field(default=False, description="Serve /v1/embeddings instead of text.")


def checked_source(text: str) -> ModelSource:
    """The model that a field names. Raises ValueError in its own words, and not as an error of another field."""
    try:
        return ModelSource.parse(text)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("model", check_fields=False)
    @classmethod
    def _is_source(cls, value: str) -> str:
        if checked_source(value).kind is SourceKind.URL:
            raise ValueError(
                "a model from a web address can only be estimated yet (`stoker estimate`): "
                "deploy from hf:ORG/REPO, or put the file on a worker and name it file:/path.gguf"
            )
        return value

    @field_validator("devices", check_fields=False)
    @classmethod
    def _are_devices(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_device(text)
        return value


class DeploymentCreate(_Spec):
    """A deployment to make, or (of the same name) to change."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "smol", "model": "hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M", "replicas": 1}
        }
    )

    name: Annotated[str, Field(pattern=DEPLOYMENT_NAME_PATTERN, description=f"A DNS label: {DEPLOYMENT_NAME_HINT}.")]
    model: Annotated[str, Field(max_length=4096, description="file:/path.gguf or hf:ORG/REPO[:QUANT|/FILE.gguf]")]
    replicas: Integer = Field(default=1, ge=0, le=1000)
    options: OptionsWrite = OptionsWrite()
    strategy: Strategy = Strategy.SPREAD
    worker_selector: dict[LabelText, LabelText] = Field(default_factory=dict, description="What a worker must have.")
    devices: list[str] = Field(
        default_factory=list,
        description="The only devices that may be used, as WORKER:KIND:INDEX (box-1:cuda:0) or WORKER/DEVICE; "
        "empty: any.",
    )
    distributed: bool = Field(default=True, description="Whether several workers may share the model over RPC.")
    cpu_offload: bool = Field(
        default=False, description="Whether CPUs may compute layers; where there is no GPU they may anyway."
    )
    gpu_layers: Integer | None = Field(
        default=None,
        ge=0,
        description="So many of the model's last layers go on devices, the output layer counted; null: all that fit.",
    )
    tensor_split: list[Annotated[Integer, Field(ge=1)]] = Field(
        default_factory=list, description="Layers of each device, in order; their sum is `gpu_layers`. Empty: Stoker's."
    )
    min_compute_capability: str | None = Field(
        default=None, pattern=COMPUTE_CAPABILITY_PATTERN, description="NVIDIA devices must have it, like 8.0."
    )
    overcommit: bool = Field(
        default=False, description="Whether the `devices` named are used even where their memory does not suffice."
    )
    priority: Integer = Field(default=0, ge=-1000, le=1000, description="Higher is served first when room is short.")
    queue: Integer = Field(
        default=DEFAULT_QUEUE,
        ge=0,
        le=MAX_QUEUE,
        description="Requests that may wait while all slots of its running instances are taken; more get 429.",
    )
    min_replicas: Integer | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="With this or `max_replicas`, there are as many replicas as requests in work and waiting fill, and "
        "never fewer than this. 0: none while nothing is asked; the first request starts one, and waits for it. "
        "null: as `replicas`, with which it begins.",
    )
    max_replicas: Integer | None = Field(
        default=None, ge=1, le=1000, description="The most that demand may ask for; null: as `replicas`."
    )
    idle_timeout: Integer = Field(
        default=DEFAULT_IDLE_TIMEOUT,
        ge=LEAST_IDLE_TIMEOUT,
        le=MOST_IDLE_TIMEOUT,
        description="Seconds for which fewer replicas must have sufficed until demand takes one away.",
    )

    @field_validator("tensor_split")
    @classmethod
    def _can_be_followed(cls, value: list[int], info: ValidationInfo) -> list[int]:
        fault = split_fault(value, info.data.get("gpu_layers"), parse_devices(info.data.get("devices") or ()))
        if fault:
            raise ValueError(fault)
        return value

    @field_validator("overcommit")
    @classmethod
    def _is_chosen(cls, value: bool, info: ValidationInfo) -> bool:
        # Devices that are wrong themselves are not in the data, and refused already.
        fault = overcommit_fault(value, parse_devices(info.data["devices"])) if "devices" in info.data else ""
        if fault:
            raise ValueError(fault)
        return value

    @field_validator("max_replicas")
    @classmethod
    def _is_above_least(cls, value: int | None, info: ValidationInfo) -> int | None:
        fault = scaling_fault(info.data.get("min_replicas"), value)
        if fault:
            raise ValueError(fault)
        return value

    def spec(self) -> DeploymentSpec:
        """The same, as the domain says it."""
        return DeploymentSpec(
            name=self.name,
            model=ModelSource.parse(self.model),
            replicas=self.replicas,
            options=EngineOptions(**self.options.model_dump()),
            strategy=self.strategy,
            worker_selector=self.worker_selector,
            devices=parse_devices(self.devices),
            distributed=self.distributed,
            cpu_offload=self.cpu_offload,
            gpu_layers=self.gpu_layers,
            tensor_split=tuple(self.tensor_split),
            min_compute_capability=self.min_compute_capability,
            overcommit=self.overcommit,
            priority=self.priority,
            queue=self.queue,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            idle_timeout=self.idle_timeout,
        )

    @classmethod
    def of(cls, spec: DeploymentSpec) -> Self:
        """A spec as it would be written."""
        return cls(
            **spec.model_dump(exclude={"model", "devices", "options"}),
            model=str(spec.model),
            devices=["/".join(pair) for pair in spec.devices],
            options=OptionsWrite(**spec.options.model_dump()),
        )


class DeploymentUpdate(_Spec):
    """What to change; what is left out stays. `options` is merged field by field."""

    model: Annotated[str, Field(max_length=4096)] | None = None
    replicas: Integer | None = Field(default=None, ge=0, le=1000)
    options: dict[str, Any] | None = None
    strategy: Strategy | None = None
    worker_selector: dict[LabelText, LabelText] | None = None
    devices: list[str] | None = None
    distributed: bool | None = None
    cpu_offload: bool | None = None
    gpu_layers: Integer | None = Field(default=None, ge=0, description="null: all that fit, again.")
    tensor_split: list[Annotated[Integer, Field(ge=1)]] | None = None
    min_compute_capability: str | None = Field(
        default=None, pattern=COMPUTE_CAPABILITY_PATTERN, description="null: any that is supported, again."
    )
    overcommit: bool | None = None
    priority: Integer | None = Field(default=None, ge=-1000, le=1000)
    queue: Integer | None = Field(default=None, ge=0, le=MAX_QUEUE)
    min_replicas: Integer | None = Field(default=None, ge=0, le=1000, description="null: as if it was never given.")
    max_replicas: Integer | None = Field(default=None, ge=1, le=1000, description="null: as if it was never given.")
    idle_timeout: Integer | None = Field(default=None, ge=LEAST_IDLE_TIMEOUT, le=MOST_IDLE_TIMEOUT)

    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.field_name not in _CLEARED_BY_NULL:
            raise ValueError("leave a field out to keep it; null is no value for it")
        return value

    def merged(self, spec: DeploymentSpec) -> DeploymentCreate:
        """The whole deployment as it should be, from what it is and what changes. Raises ValidationError."""
        current = DeploymentCreate.of(spec).model_dump()
        changes = self.model_dump(exclude_unset=True)
        if "options" in changes:
            changes["options"] = {**current["options"], **changes["options"]}
        return DeploymentCreate.model_validate({**current, **changes})


class ModelFileRead(BaseModel):
    """One GGUF file."""

    path: str
    size_bytes: int
    sha256: str | None


class ModelRead(BaseModel):
    """What is known of the model from its header."""

    source: str
    revision: str | None
    architecture: str
    file_type: str
    parameters: int
    trained_context_length: int
    layers: int
    size_bytes: int
    files: list[ModelFileRead]


class RolledBackRead(BaseModel):
    """A generation of which no instance ran, so that what was wanted before it is wanted again."""

    generation: int
    reason: str


class DeploymentRead(DeploymentCreate):
    """A deployment: what is wanted, and how far it has come."""

    generation: int
    instances_generation: int = Field(
        description="The generation that instances must be of; others are replaced. 0: made before that was kept, any."
    )
    state: str = Field(description="running, progressing, pending, failed, stopped (no replicas) or deleting")
    message: str
    rolled_back: RolledBackRead | None = Field(
        default=None, description="The generation in whose place Stoker put this one; null: somebody asked for it."
    )
    running: int = Field(description="Instances that answer now.")
    wanted: int = Field(description="Instances that are wanted now: `replicas`, or what demand asks for.")
    model_info: ModelRead
    instances: list[InstanceRead]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of_status(cls, status: DeploymentStatus, instances: tuple[InstanceStatus, ...]) -> Self:
        """The deployment with its instances, as read from the rows."""
        state, message = summary(status, instances)
        files = status.files
        return cls(
            **DeploymentCreate.of(status.spec).model_dump(),
            generation=status.generation,
            instances_generation=status.instances_generation,
            state=state,
            message=message,
            rolled_back=RolledBackRead(**status.rolled_back.model_dump()) if status.rolled_back is not None else None,
            running=sum(instance.state is InstanceState.RUNNING for instance in instances),
            wanted=status.wanted_replicas,
            model_info=ModelRead(
                source=str(files.source),
                revision=files.revision or None,
                architecture=status.profile.architecture,
                file_type=status.profile.file_type,
                parameters=status.profile.parameters,
                trained_context_length=status.profile.context_length,
                layers=status.profile.block_count,
                size_bytes=files.size,
                files=[
                    ModelFileRead(path=file.path, size_bytes=file.size, sha256=file.sha256 or None)
                    for file in files.files
                ],
            ),
            instances=[InstanceRead.of_status(instance) for instance in instances],
            created_at=status.created_at,
            updated_at=status.updated_at,
        )

    def is_current(self, generation: int) -> bool:
        """Whether instances of that generation are those that are wanted."""
        return self.instances_generation in (generation, 0)


def summary(status: DeploymentStatus, instances: tuple[InstanceStatus, ...]) -> tuple[str, str]:
    """The deployment's state in one word, and the message of the instance that explains it."""
    if status.deleting:
        return "deleting", "its instances are being stopped"
    if status.wanted_replicas == 0:
        asleep = is_autoscaled(status.spec)
        return "stopped", "it sleeps: the first request starts it" if asleep else "no replicas are wanted"
    current = [
        instance
        for instance in instances
        if instance.state is not InstanceState.STOPPING and status.is_current(instance.generation)
    ]
    if sum(instance.state is InstanceState.RUNNING for instance in current) >= status.wanted_replicas:
        return "running", f"all replicas answer; {status.reason}" if status.rolled_back else "all replicas answer"
    for state, word in (
        (InstanceState.FAILED, "failed"),
        (InstanceState.PENDING, "pending"),
        (InstanceState.BACKOFF, "progressing"),
        (InstanceState.DOWNLOADING, "progressing"),
        (InstanceState.STARTING, "progressing"),
    ):
        for instance in current:
            if instance.state is state:
                return word, instance.message
    return "progressing", "instances are being placed"
