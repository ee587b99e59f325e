"""What stands beside a model: a multimodal projector, and a draft model for speculative decoding."""

from typing import TypeVar

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.gguf import ProjectorProfile

_Part = TypeVar("_Part", DeviceMemory, HostMemory)
_F32 = 4
_RESIDUALS = 6  # rows of embedding_length beside the widest moment: its norms, and the merged patches


def with_projector(
    estimate: MemoryEstimate, projector: ProjectorProfile, options: EngineOptions, *, on_gpu: bool
) -> MemoryEstimate:
    """`estimate` with `projector` where llama-server puts it: on the first device, or in RAM when there is none."""
    weights = projector.weights + (projector.padding if on_gpu else 0)
    row = 3 * projector.feed_forward + _RESIDUALS * projector.embedding_length
    if not options.flash_attention:
        row = max(row, projector.heads * projector.patches + _RESIDUALS * projector.embedding_length)
    return _added(estimate, DeviceMemory(weights=weights, compute=_F32 * projector.patches * row))


def with_draft(estimate: MemoryEstimate, draft: MemoryEstimate) -> MemoryEstimate:
    """`estimate` with the draft model beside it, whose own estimate for one device (or for RAM) is `draft`.

    It runs in the same process: what the driver and the process take is there once.
    """
    host = estimate.host.model_copy(
        update={
            "weights": estimate.host.weights + draft.host.weights,
            "cache": estimate.host.cache + draft.host.cache,
            "compute": estimate.host.compute + draft.host.compute,
            "output": estimate.host.output + draft.host.output,
        }
    )
    both = estimate.model_copy(update={"host": host, "caution": estimate.caution or draft.caution})
    return _added(both, draft.devices[0]) if draft.devices else both


def _added(estimate: MemoryEstimate, more: DeviceMemory) -> MemoryEstimate:
    if not estimate.devices:
        return estimate.model_copy(update={"host": _sum(estimate.host, more)})
    first, *others = estimate.devices
    return estimate.model_copy(update={"devices": (_sum(first, more), *others)})


def _sum(part: _Part, more: DeviceMemory) -> _Part:
    return part.model_copy(
        update={
            "weights": part.weights + more.weights,
            "cache": part.cache + more.cache,
            "compute": part.compute + more.compute,
        }
    )
