"""Memory as REST reads it: what was estimated, and what it came to."""

from typing import Self

from pydantic import BaseModel, Field

from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.measured_memory import MemoryComparison


class EstimatedDeviceRead(BaseModel):
    """What one device was estimated to need, in bytes."""

    layers: int
    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    overhead_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, memory: DeviceMemory) -> Self:
        """Part by part."""
        return cls(
            layers=memory.layers,
            weights_bytes=memory.weights,
            cache_bytes=memory.cache,
            compute_bytes=memory.compute,
            overhead_bytes=memory.overhead,
            total_bytes=memory.total,
        )


class EstimatedHostRead(BaseModel):
    """What the host's RAM was estimated to need, in bytes."""

    layers: int = Field(description="Those on no device; where none is, the output layer is counted, too.")
    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, memory: HostMemory) -> Self:
        """Part by part."""
        return cls(
            layers=memory.layers,
            weights_bytes=memory.weights,
            cache_bytes=memory.cache,
            compute_bytes=memory.compute,
            output_bytes=memory.output,
            overhead_bytes=memory.overhead,
            total_bytes=memory.total,
        )


class EstimateRead(BaseModel):
    """What the instance was estimated to need, in bytes: on each device, on the host, and in all."""

    context_length: int
    slots: int
    devices: list[EstimatedDeviceRead]
    host: EstimatedHostRead
    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int
    caution: str = Field(description="Why the numbers are larger than they may need to be; empty: they are exact.")

    @classmethod
    def of(cls, estimate: MemoryEstimate) -> Self:
        """The parts and their sums."""
        parts: tuple[DeviceMemory | HostMemory, ...] = (*estimate.devices, estimate.host)
        return cls(
            context_length=estimate.context_length,
            slots=estimate.slots,
            devices=[EstimatedDeviceRead.of(device) for device in estimate.devices],
            host=EstimatedHostRead.of(estimate.host),
            weights_bytes=sum(part.weights for part in parts),
            cache_bytes=sum(part.cache for part in parts),
            compute_bytes=sum(part.compute for part in parts),
            output_bytes=estimate.host.output,
            overhead_bytes=sum(part.overhead for part in parts),
            caution=estimate.caution,
        )


class MemoryPartsRead(BaseModel):
    """Bytes on one device or the host, by what they are for."""

    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int | None = Field(
        description="Driver, libraries, the process itself. Measured: what its process holds of a GPU beyond the other "
        "parts; null where the driver does not say, and of the host."
    )
    total_bytes: int | None = Field(
        description="Estimated: the sum. Measured: all that the process held when it began to answer, on the host only "
        "what it had touched until then; null where that is not known."
    )


class MemoryComparisonRead(BaseModel):
    """Estimate beside measurement, of one device or the host."""

    device: str = Field(description="As in the placement's shares; `host` for the host's RAM.")
    estimated: MemoryPartsRead
    measured: MemoryPartsRead | None = Field(
        description="By the engine's own log. Null: it does not run, or it does not say."
    )
    error_ratio: float | None = Field(
        description="(measured - estimated) / estimated of weights, cache, compute and output together."
    )

    @classmethod
    def of(cls, compared: MemoryComparison) -> Self:
        """One of `compare_memory`'s."""
        estimated, measured = compared.estimated, compared.measured
        return cls(
            device=compared.device,
            estimated=MemoryPartsRead(
                weights_bytes=estimated.weights,
                cache_bytes=estimated.cache,
                compute_bytes=estimated.compute,
                output_bytes=estimated.output if isinstance(estimated, HostMemory) else 0,
                overhead_bytes=estimated.overhead,
                total_bytes=estimated.total,
            ),
            measured=MemoryPartsRead(
                weights_bytes=measured.weights,
                cache_bytes=measured.cache,
                compute_bytes=measured.compute,
                output_bytes=measured.output,
                overhead_bytes=compared.overhead,
                total_bytes=compared.used,
            )
            if measured is not None
            else None,
            error_ratio=compared.error_ratio,
        )
