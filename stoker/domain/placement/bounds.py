"""What no device can exceed: bounds that settle most questions before any order of devices is tried."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol


class Costs(Protocol):
    """What `StretchCosts` gives to a cover."""

    @property
    def layers(self) -> int:
        """How many there are, the output counted as one."""
        ...

    def column(self, end: int, *, on_gpu: bool, pipelined: bool) -> Sequence[int]:
        """Bytes of a device with the layers from each start (the index) to before `end`."""
        ...


class Bounds:
    """Of one model with its options, on devices in a pipeline or not."""

    def __init__(self, costs: Costs, *, pipelined: bool) -> None:
        self.costs, self.pipelined = costs, pipelined

    def most_before(self, end: int, free: int, on_gpu: bool) -> int:
        """No room of `free` bytes holds more of the layers before `end` than this."""
        return bisect_right((self._least_gpu if on_gpu else self._least_cpu)[end], free)

    def level(self, free: int, on_gpu: bool) -> int:
        """Rooms of one level hold the same stretches."""
        return bisect_right(self._thresholds_gpu if on_gpu else self._thresholds_cpu, free)

    @cached_property
    def _least_gpu(self) -> list[list[int]]:
        return self._least(on_gpu=True)

    @cached_property
    def _least_cpu(self) -> list[list[int]]:
        return self._least(on_gpu=False)

    def _least(self, *, on_gpu: bool) -> list[list[int]]:
        """For each number of layers (the index): the least that 1, 2, … in a row of so many take, or more of them."""
        tables: list[list[int]] = [[]]
        for end in range(1, self.costs.layers + 1):
            by_length = self.costs.column(end, on_gpu=on_gpu, pipelined=self.pipelined)[::-1]
            least = [*map(min, by_length, tables[-1]), by_length[-1]]
            for index in range(end - 2, -1, -1):
                if least[index + 1] < least[index]:
                    least[index] = least[index + 1]
            tables.append(least)
        return tables

    @cached_property
    def _thresholds_gpu(self) -> list[int]:
        return self._thresholds(on_gpu=True)

    @cached_property
    def _thresholds_cpu(self) -> list[int]:
        return self._thresholds(on_gpu=False)

    def _thresholds(self, *, on_gpu: bool) -> list[int]:
        found: set[int] = set()
        for end in range(1, self.costs.layers + 1):
            found.update(self.costs.column(end, on_gpu=on_gpu, pipelined=self.pipelined))
        return sorted(found)
