"""Which device takes how many layers, so that the fullest of equal devices is as empty as can be."""

from collections.abc import Callable, Sequence

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import wrong_split
from stoker.domain.estimation.stretches import StretchCosts
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.gguf import ModelProfile

_Cost = Callable[[int, int], int]


def balanced(profile: ModelProfile, options: EngineOptions, devices: int) -> tuple[int, ...] | EstimateRefusal:
    """Layers of each of `devices` equal GPUs, the output layer counted as one: all of the model, none of them empty.

    Layers keep their order, so a device's share is a stretch of them, and what it takes depends on that stretch alone.
    The least bound on a device's bytes within which all stretches fit is found by bisection; of the splits within it,
    one with even numbers of layers is taken.
    """
    most = profile.block_count + 1
    if devices == 0:
        return ()
    if not 0 < devices <= most:
        return EstimateRefusal(message=f"devices is {devices}: this model has {most} layers (with the output) to share")
    even = tuple((most * (index + 1)) // devices - (most * index) // devices for index in range(devices))
    costs = StretchCosts.of(profile, options)
    if isinstance(costs, EstimateRefusal):
        return costs
    if message := wrong_split(profile, even):
        return EstimateRefusal(message=message)
    if devices == 1:
        return even

    def cost(start: int, end: int) -> int:
        """Bytes of a device that has the layers from `start` to before `end`."""
        return costs.column(end, on_gpu=True, pipelined=True)[start]

    # All stretches fit within what the fullest of the even ones takes; then within less and less.
    low, high = 0, _fullest(even, cost)
    while low < high:
        bound = (low + high) // 2
        if (split := _within(bound, cost, 0, most, devices)) is None:
            low = bound + 1
        else:
            high = _fullest(split, cost)
    return _evenly(high, cost, most, devices)


def _within(bound: int, cost: _Cost, first: int, most: int, devices: int) -> tuple[int, ...] | None:
    """Layers from `first` on for `devices` devices: each as many as fit into `bound` bytes, and one at least."""
    split: list[int] = []
    for left in reversed(range(devices)):
        end = _reach(bound, cost, first, most - left)
        if end == first:
            return None
        split.append(end - first)
        first = end
    return tuple(split) if first == most else None


def _evenly(bound: int, cost: _Cost, most: int, devices: int) -> tuple[int, ...]:
    """A split within `bound`, which there is, with as even numbers of layers as that allows."""
    split: list[int] = []
    first = 0
    for left in reversed(range(devices)):
        end = _reach(bound, cost, first, most - left)  # with so many, the rest fits for certain
        fair = min(end, first + -(-(most - first) // (left + 1)))
        while fair < end and _within(bound, cost, fair, most, left) is None:
            fair += 1
        split.append(fair - first)
        first = fair
    return tuple(split)


def _reach(bound: int, cost: _Cost, first: int, last: int) -> int:
    """Where the longest stretch from `first` ends that takes at most `bound` bytes and ends by `last`."""
    end = first
    while end < last:
        middle = (end + last + 1) // 2
        if cost(first, middle) <= bound:  # a longer one takes more
            end = middle
        else:
            last = middle - 1
    return end


def _fullest(split: Sequence[int], cost: _Cost) -> int:
    first, fullest = 0, 0
    for layers in split:
        fullest = max(fullest, cost(first, first + layers))
        first += layers
    return fullest
