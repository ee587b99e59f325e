"""The answer to "what would it take?": a split, the estimate for it, and what would change it most."""

from collections.abc import Sequence

from stoker.domain.base import Value
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.balance import balanced
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.savings import Saving, savings
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import ModelProfile, ProjectorProfile


class Assessment(Value):
    """An estimate with its savings; `split` gives the layers of each device (none: the CPU has them all)."""

    split: tuple[int, ...]
    estimate: MemoryEstimate
    savings: tuple[Saving, ...]


def assess(
    profile: ModelProfile,
    options: EngineOptions,
    *,
    devices: int = 1,
    split: Sequence[int] = (),
    projector: ProjectorProfile | None = None,
    draft: ModelProfile | None = None,
) -> Assessment | EstimateRefusal:
    """What the whole model takes on `split`, or else balanced over `devices` equal GPUs (0: on the CPU alone).

    A `projector` and a `draft` model stand beside it; the layers are shared as if they did not.
    """
    layers = profile.block_count + 1
    if split and sum(split) != layers:
        return EstimateRefusal(
            message=f"split {','.join(map(str, split))} places {sum(split)} layers, and the model has {layers}: "
            f"{profile.block_count} and the output layer, counted as one"
        )
    shared = tuple(split) or balanced(profile, options, devices)
    if isinstance(shared, EstimateRefusal):
        return shared
    found = estimate(profile, options, shared, projector=projector, draft=draft)
    if isinstance(found, EstimateRefusal):
        return found
    saved = savings(profile, options, found, shared, projector=projector, draft=draft)
    return Assessment(split=shared, estimate=found, savings=saved)
