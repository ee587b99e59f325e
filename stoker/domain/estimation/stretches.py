"""What every stretch of a model's layers takes: placement compares thousands of them for one decision."""

from collections.abc import Sequence

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import ModelMemory, default_context, device_overhead, wrong_split
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.workers import DeviceKind

_ESTIMATES = 8  # that are remembered


class StretchCosts:
    """What every stretch of a model's layers takes on one device, and what stays on the host.

    Layers count from 0; the last, `layers` - 1, is the output. All sizes are those of `estimate` for the same model
    and options, and are worked out once, when they are first asked for. Not for several threads at once.
    """

    def __init__(self, memory: ModelMemory) -> None:
        self._memory = memory
        self._columns: dict[tuple[int, bool, bool], tuple[int, ...]] = {}
        self._hosts: dict[tuple[int, bool, bool], int] = {}
        self._estimates: dict[tuple[tuple[int, ...], tuple[DeviceKind, ...]], MemoryEstimate] = {}
        self.layers = memory.profile.block_count + 1  # the output counted as one
        self.context_length = memory.context  # tokens a slot
        self.slots = memory.options.slots

    @classmethod
    def of(cls, profile: ModelProfile, options: EngineOptions) -> "StretchCosts | EstimateRefusal":
        """Of `profile` with `options`, or why no split of it can be estimated."""
        memory = ModelMemory.of(profile, options, options.context_length or default_context(profile))
        return memory if isinstance(memory, EstimateRefusal) else cls(memory)

    def column(self, end: int, *, on_gpu: bool, pipelined: bool) -> tuple[int, ...]:
        """Bytes of a device with the layers from each start (the index, 0 to `end` - 1) to before `end`.

        `pipelined`: there are several devices, and no layer on the host. A device without layers takes nothing.
        """
        key = (end, on_gpu, pipelined)
        if (found := self._columns.get(key)) is None:
            self._check("end", end)
            overhead = device_overhead(on_gpu=on_gpu)
            sizes = [sum(parts, overhead) for parts in self._memory.on_devices(end, on_gpu=on_gpu, pipelined=pipelined)]
            found = self._columns[key] = tuple(reversed(sizes))
        return found

    def host(self, first: int, *, any_gpu: bool, pipelined: bool) -> int:
        """Bytes of RAM on the main server's host when the layers before `first` stay there.

        `any_gpu`: at least one of the devices is no CPU, wherever it is.
        """
        key = (first, any_gpu, pipelined)
        if (found := self._hosts.get(key)) is None:
            self._check("first", first)
            found = self._hosts[key] = self._memory.on_host(first, any_gpu=any_gpu, pipelined=pipelined).total
        return found

    def estimate(self, split: Sequence[int], kinds: Sequence[DeviceKind] = ()) -> MemoryEstimate:
        """With `split` layers on devices of these `kinds`: as `estimate` says; ValueError where it would refuse."""
        key = (tuple(split), tuple(kinds))
        if (found := self._estimates.get(key)) is None:
            if message := wrong_split(self._memory.profile, split):
                raise ValueError(message)
            found = self._memory.spread(split, kinds)
            if len(self._estimates) >= _ESTIMATES:
                self._estimates.clear()  # and not one of them: several threads may ask at once
            self._estimates[key] = found
        return found

    def _check(self, name: str, layer: int) -> None:
        if not 0 <= layer <= self.layers:
            raise ValueError(
                f"{name} is {layer}: this model has {self.layers} layers (with the output), so 0 to {self.layers}"
            )
