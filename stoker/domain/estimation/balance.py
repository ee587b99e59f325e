"""Which device takes how many layers, so that the fullest of equal devices is as empty as can be."""

from collections.abc import Callable, Sequence
from functools import cache

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import ModelProfile

_Cost = Callable[[int, int], int]


def balanced(profile: ModelProfile, options: EngineOptions, devices: int) -> tuple[int, ...] | EstimateRefusal:
    """Layers of each of `devices` equal GPUs, the output layer counted as one: all of the model, none of them empty.

    Layers keep their order, so a device's share is a stretch of them, and what it takes depends on that stretch alone.
    The answer is the least bound on a device's bytes within which all stretches fit, found by bisection. Where an even
    number of layers each is as good, that is the answer.
    """
    most = profile.block_count + 1
    if devices == 0:
        return ()
    if not 0 < devices <= most:
        return EstimateRefusal(message=f"devices is {devices}: this model has {most} layers (with the output) to share")
    even = tuple((most * (index + 1)) // devices - (most * index) // devices for index in range(devices))
    found = estimate(profile, options, even)
    if isinstance(found, EstimateRefusal):
        return found
    if devices == 1:
        return even

    @cache
    def cost(start: int, end: int) -> int:
        """Bytes of a device that has the layers from `start` to before `end`."""
        one = estimate(profile, options, (start, end - start, most - end))
        assert isinstance(one, MemoryEstimate)  # noqa: S101  an even split was not refused
        return one.devices[1].total

    best, low, high = even, 0, max(device.total for device in found.devices)
    while low < high:
        bound = (low + high) // 2
        if (split := _within(bound, cost, most, devices)) is None:
            low = bound + 1
        else:
            best, high = split, _fullest(split, cost)
    return best


def _within(bound: int, cost: _Cost, most: int, devices: int) -> tuple[int, ...] | None:
    """A split of which no device takes more than `bound` bytes: each as many layers as fit, and one at least."""
    split: list[int] = []
    first = 0
    for left in reversed(range(devices)):  # devices behind this one, which get a layer each at least
        end, last = first, most - left  # the most that fits lies between them: a longer stretch takes more
        while end < last:
            middle = (end + last + 1) // 2
            if cost(first, middle) <= bound:
                end = middle
            else:
                last = middle - 1
        if end == first:
            return None
        split.append(end - first)
        first = end
    return tuple(split) if first == most else None


def _fullest(split: Sequence[int], cost: _Cost) -> int:
    first, fullest = 0, 0
    for layers in split:
        fullest = max(fullest, cost(first, first + layers))
        first += layers
    return fullest
