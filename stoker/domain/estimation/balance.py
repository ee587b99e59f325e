"""Which device takes how many layers, so that the fullest of equal devices is as empty as can be."""

from collections.abc import Sequence
from typing import NamedTuple

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.workers import DeviceKind


def balanced(
    profile: ModelProfile, options: EngineOptions, devices: int, kinds: Sequence[DeviceKind] = ()
) -> tuple[int, ...] | EstimateRefusal:
    """Layers of each of `devices` devices, the output layer counted as one: all of the model, none of them empty.

    Layers keep their order, so a device's share is a stretch of them. What a stretch takes (weights and cache) is read
    off estimates; what a device takes beside its layers is that of an even split. The answer is the least bound on a
    device's sum within which all stretches fit, found by bisection.
    """
    most = profile.block_count + 1
    if devices == 0:
        return ()
    if not 0 < devices <= most:
        return EstimateRefusal(message=f"devices is {devices}: this model has {most} layers (with the output) to share")
    even = tuple((most * (index + 1)) // devices - (most * index) // devices for index in range(devices))
    found = estimate(profile, options, even, kinds)
    if isinstance(found, EstimateRefusal) or devices == 1:
        return found if isinstance(found, EstimateRefusal) else even
    costs = _Costs(_behind(profile, options, most), [device.compute + device.overhead for device in found.devices])
    # What the even split takes fits for certain, and below a device's fair share nothing does.
    low, high = 0, max(device.total for device in found.devices)
    best = even
    while low < high:
        bound = (low + high) // 2
        if (split := costs.split_within(bound)) is None:
            low = bound + 1
        else:
            best, high = split, bound
    outcome = estimate(profile, options, best, kinds)
    better = isinstance(outcome, MemoryEstimate) and _fullest(outcome) < _fullest(found)
    return best if better else even


def _fullest(found: MemoryEstimate) -> int:
    return max(device.total for device in found.devices)


def _behind(profile: ModelProfile, options: EngineOptions, most: int) -> list[int]:
    """Bytes of weights and cache of all layers behind each, the first first, and 0 for those behind the last."""
    sums = []
    for layers in range(most, 0, -1):
        found = estimate(profile, options, (layers,))
        assert isinstance(found, MemoryEstimate)  # noqa: S101  the whole model was not refused
        sums.append(found.devices[0].weights + found.devices[0].cache)
    return [*sums, 0]


class _Costs(NamedTuple):
    behind: list[int]
    beside: list[int]  # bytes that each device takes beside its layers

    def split_within(self, bound: int) -> tuple[int, ...] | None:
        """A split of which no device takes more than `bound` bytes: each as many layers as fit, and one at least."""
        most, devices = len(self.behind) - 1, len(self.beside)
        split, first = [], 0
        for index, beside in enumerate(self.beside):
            left_for_others = devices - index - 1
            end = first
            while end < most - left_for_others and self.behind[first] - self.behind[end + 1] + beside <= bound:
                end += 1
            if end == first:
                return None
            split.append(end - first)
            first = end
        return tuple(split) if first == most else None
