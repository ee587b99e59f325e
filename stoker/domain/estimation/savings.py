"""What would change an estimate most: each option by itself, a step towards less memory."""

from collections.abc import Sequence

from stoker.domain.base import Bytes, Value
from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.gguf import ModelProfile, ProjectorProfile
from stoker.domain.workers import DeviceKind

_LEAST_CONTEXT = 128  # tokens: what EngineOptions allows at least, as it does micro-batches of 32
_LEAST_MICRO_BATCH = 32


class Saving(Value):
    """One option set otherwise, and the bytes that this saves on all devices and the host together."""

    change: str  # for people: "half the context"
    option: str  # its name in EngineOptions
    value: int | bool | str
    saved: Bytes


def savings(
    profile: ModelProfile,
    options: EngineOptions,
    estimated: MemoryEstimate,
    split: Sequence[int] = (),
    kinds: Sequence[DeviceKind] = (),
    *,
    projector: ProjectorProfile | None = None,
    draft: ModelProfile | None = None,
) -> tuple[Saving, ...]:
    """What can be saved beside `estimated` (the estimate of these same arguments), the largest saving first.

    What the engine would refuse, and what saves nothing, is left out.
    """
    found = []
    for change, option, value in _changes(options, estimated):
        changed = EngineOptions.model_validate({**options.model_dump(), option: value})
        outcome = estimate(profile, changed, split, kinds, projector=projector, draft=draft)
        if isinstance(outcome, MemoryEstimate) and (saved := total(estimated) - total(outcome)) > 0:
            found.append(Saving(change=change, option=option, value=value, saved=saved))
    return tuple(sorted(found, key=lambda saving: -saving.saved))


def total(estimated: MemoryEstimate) -> int:
    """Bytes on all devices and the host together."""
    return estimated.host.total + sum(device.total for device in estimated.devices)


def _changes(options: EngineOptions, estimated: MemoryEstimate) -> list[tuple[str, str, int | bool | str]]:
    changes: list[tuple[str, str, int | bool | str]] = []
    if (half := estimated.context_length // 2) >= _LEAST_CONTEXT:
        changes.append(("half the context", "context_length", half))
    if options.slots > 1:
        changes.append(("one slot less", "slots", options.slots - 1))
    if (half := options.micro_batch // 2) >= _LEAST_MICRO_BATCH:
        changes.append(("half the micro-batch", "micro_batch", half))
    if not options.flash_attention:
        changes.append(("flash attention", "flash_attention", True))
    for cache_type in (CacheType.Q8_0, CacheType.Q4_0):
        if options.cache_type_v is None:
            changes.append((f"a {cache_type} KV cache", "cache_type", cache_type.value))
        else:
            changes.append((f"{cache_type} keys", "cache_type", cache_type.value))
            changes.append((f"{cache_type} values", "cache_type_v", cache_type.value))
    return changes
