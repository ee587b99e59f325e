"""What stands beside a model: a multimodal projector, and a draft model for speculative decoding."""

from typing import TypeVar

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.gguf import ProjectorProfile

_Part = TypeVar("_Part", DeviceMemory, HostMemory)
_F32 = 4
_CHANNELS = 3  # of a picture, which the host keeps as numbers


def with_projector(
    estimate: MemoryEstimate, projector: ProjectorProfile, options: EngineOptions, *, on_gpu: bool
) -> MemoryEstimate:
    """`estimate` with `projector` where llama-server puts it: on the first device, or in RAM when there is none.

    Its graph is that of a transformer which reads all patches at once (llama.cpp: tools/mtmd/clip.cpp).
    """
    row = projector.embedding_length
    widest = (3 if projector.gated else 1) * projector.feed_forward + 3 * row + row // 2
    if not options.flash_attention:
        widest = max(widest, projector.heads * projector.patches + 4 * row + row // 2)
    weights = projector.weights + (projector.padding if on_gpu else 0)
    picture = HostMemory(compute=_F32 * _CHANNELS * projector.pixels)
    beside = estimate.model_copy(update={"host": _sum(estimate.host, picture)})
    return _added(beside, DeviceMemory(weights=weights, compute=_F32 * projector.patches * widest))


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


def _sum(part: _Part, more: DeviceMemory | HostMemory) -> _Part:
    return part.model_copy(
        update={
            "weights": part.weights + more.weights,
            "cache": part.cache + more.cache,
            "compute": part.compute + more.compute,
        }
    )
