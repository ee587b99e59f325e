"""What stretches of a model's layers take, and which sets of devices can hold which layers: by enumeration."""

from collections.abc import Sequence
from typing import NamedTuple

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.workers import DeviceKind


class Slot(NamedTuple):
    """A device that may hold layers of at most `cap` bytes."""

    worker: str
    device: str
    on_gpu: bool
    cap: int


class Costs:
    """Bytes that stretches of one model's layers take, as `estimate` says; the output layer is the last."""

    def __init__(self, profile: ModelProfile, options: EngineOptions) -> None:
        self.layers = profile.block_count + 1
        self._profile, self._options = profile, options
        self._devices: dict[tuple[int, int, bool, bool], int] = {}
        self._hosts: dict[tuple[int, bool, bool], int] = {}
        self._covers: dict[tuple[Sequence[Slot], bool], list[int]] = {}

    def device(self, start: int, end: int, *, on_gpu: bool, pipelined: bool) -> int:
        """Of the device that has the layers from `start` to before `end`."""
        key = (start, end, on_gpu, pipelined)
        if key not in self._devices:
            split = [end - start, self.layers - end]
            if pipelined:
                split.insert(0, start)
            self._devices[key] = self._estimate(split, on_gpu=on_gpu).devices[1 if pipelined else 0].total
        return self._devices[key]

    def whole(self) -> int:
        """Of one GPU that has all layers."""
        return self._estimate([self.layers], on_gpu=True).devices[0].total

    def host(self, first: int, *, any_gpu: bool, pipelined: bool = False) -> int:
        """Of the main server's host, whose CPU has the layers before `first`."""
        key = (first, any_gpu, pipelined)
        if key not in self._hosts:
            split = [1, self.layers - 1] if pipelined else [self.layers - first] * (first < self.layers)
            self._hosts[key] = self._estimate(split, on_gpu=any_gpu).host.total
        return self._hosts[key]

    def covers(self, slots: tuple[Slot, ...], *, pipelined: bool) -> list[int]:
        """For each set of `slots` (bit i of the index: the i-th): the layers (bits) that can be the first of those,
        up to the last layer, which they hold, none of them empty.
        """
        if (slots, pipelined) not in self._covers:
            self._covers[slots, pipelined] = self._find_covers(slots, pipelined)
        return self._covers[slots, pipelined]

    def _find_covers(self, slots: Sequence[Slot], pipelined: bool) -> list[int]:
        fits = [
            [
                sum(1 << start for start, cost in self._stretches(slot, end, pipelined) if cost <= slot.cap)
                for end in range(self.layers + 1)
            ]
            for slot in slots
        ]
        found = [1 << self.layers]
        for chosen in range(1, 1 << len(slots)):  # a set comes after all its parts
            starts = 0
            for index in range(len(slots)):
                if chosen >> index & 1 and (ends := found[chosen ^ (1 << index)]):
                    for end in range(1, self.layers + 1):
                        if ends >> end & 1:
                            starts |= fits[index][end]
            found.append(starts)
        return found

    def _stretches(self, slot: Slot, end: int, pipelined: bool) -> list[tuple[int, int]]:
        return [
            (start, self.device(start, end, on_gpu=slot.on_gpu, pipelined=pipelined))
            for start in range(0 if pipelined else 1, end)
        ]

    def _estimate(self, split: Sequence[int], *, on_gpu: bool) -> MemoryEstimate:
        kind = DeviceKind.CUDA if on_gpu else DeviceKind.CPU
        found = estimate(self._profile, self._options, split, [kind] * len(split))
        assert isinstance(found, MemoryEstimate), found
        return found
