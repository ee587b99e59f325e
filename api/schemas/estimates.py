"""Estimates as REST asks for and gives them. All sizes in bytes."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from api.schemas.deployments import ModelFileRead, OptionsWrite, checked_source
from api.schemas.integers import Integer
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.assessment import Assessment
from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles, ModelSource


class EstimateCreate(BaseModel):
    """Which model is to be estimated, how it would be served, and on how many devices."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"model": "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", "options": {"slots": 1}, "devices": 2}
        },
    )

    model: Annotated[
        str,
        Field(
            max_length=4096,
            description="hf:ORG/REPO[:QUANT|/FILE.gguf], https://host/path.gguf, or file:/path.gguf on a worker.",
        ),
    ]
    options: OptionsWrite = OptionsWrite()
    devices: Integer = Field(
        default=1, ge=0, le=MAX_DEVICES, description="Equal GPUs that share the layers evenly by bytes; 0: CPU only."
    )
    split: list[Annotated[Integer, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_DEVICES,
        description="Instead of `devices`: layers of each device in order, the output layer counted as one.",
    )

    projector: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None, description="A multimodal projector (mmproj) beside the model: hf:ORG/REPO/FILE.gguf or https:."
    )
    draft: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None, description="A draft model beside it, for speculative decoding: a source as `model`."
    )

    @field_validator("model", "projector", "draft")
    @classmethod
    def _is_source(cls, value: str | None) -> str | None:
        if value is not None:
            checked_source(value)
        return value

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.split is not None and "devices" in self.model_fields_set and self.devices != len(self.split):
            raise ValueError(f"devices is {self.devices} and split names {len(self.split)}: give one of the two")
        return self

    def source(self) -> ModelSource:
        """The model."""
        return checked_source(self.model)

    def engine_options(self) -> EngineOptions:
        """The options, as the domain says them."""
        return EngineOptions(**self.options.model_dump())


class EstimatedModelRead(BaseModel):
    """The model, as its header describes it."""

    source: str
    revision: str | None = Field(description="The commit that was read, of a model on the hub.")
    name: str
    architecture: str
    file_type: str = Field(description="The quantisation, like Q4_K_M.")
    parameters: int
    context_length: int = Field(description="Tokens it was trained for.")
    block_count: int = Field(description="Layers; with the output layer, a split shares one more.")
    size_bytes: int
    files: list[ModelFileRead]


class DeviceMemoryRead(BaseModel):
    """What one device holds."""

    layers: int
    weights: int
    kv: int = Field(description="KV cache, or recurrent state.")
    compute: int = Field(description="What one micro-batch takes at its peak.")
    overhead: int = Field(description="The driver's context and libraries.")
    total: int


class HostMemoryRead(BaseModel):
    """What the main server's process holds in RAM."""

    weights: int
    kv: int
    compute: int
    output: int = Field(description="Results of a micro-batch.")
    overhead: int
    total: int


class SavingRead(BaseModel):
    """One option set otherwise, and what that saves on all devices and the host together."""

    change: str
    option: str
    value: int | bool | str
    saved: int


class MemoryEstimateRead(BaseModel):
    """What the model takes."""

    model: EstimatedModelRead
    options: OptionsWrite = Field(description="What was estimated; `context_length` is the one that Stoker would take.")
    devices: list[DeviceMemoryRead]
    host: HostMemoryRead
    caution: str = Field(description="Why the numbers are larger than they may need to be; empty: they are exact.")
    savings: list[SavingRead] = Field(description="What would change it most, the largest saving first.")

    @classmethod
    def of(
        cls, source: str, files: ModelFiles, profile: ModelProfile, options: EngineOptions, found: Assessment
    ) -> Self:
        """The whole answer; `source` as it was named."""
        estimate = found.estimate
        return cls(
            model=EstimatedModelRead(
                source=source,
                revision=files.revision or None,
                name=profile.name,
                architecture=profile.architecture,
                file_type=profile.file_type,
                parameters=profile.parameters,
                context_length=profile.context_length,
                block_count=profile.block_count,
                size_bytes=files.size,
                files=[ModelFileRead(path=f.path, size_bytes=f.size, sha256=f.sha256 or None) for f in files.files],
            ),
            options=OptionsWrite(**{**options.model_dump(), "context_length": estimate.context_length}),
            devices=[
                DeviceMemoryRead(
                    layers=device.layers,
                    weights=device.weights,
                    kv=device.cache,
                    compute=device.compute,
                    overhead=device.overhead,
                    total=device.total,
                )
                for device in estimate.devices
            ],
            host=HostMemoryRead(
                weights=estimate.host.weights,
                kv=estimate.host.cache,
                compute=estimate.host.compute,
                output=estimate.host.output,
                overhead=estimate.host.overhead,
                total=estimate.host.total,
            ),
            caution=estimate.caution,
            savings=[SavingRead(**saving.model_dump()) for saving in found.savings],
        )
