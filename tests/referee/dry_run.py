"""Measures a model whose weights are not there: a file with a true header and the true size is enough.

llama-server's own --fit does most of it. Before it loads, it builds the whole model and its graphs without allocating,
with the parameters of the server to come; at -lv 5 it says what it finds. Where its words are too few:

- weights: it then begins the real load, and names each device's buffer before it reads the first weight. The devices
  are stand-ins that need no memory (rpc_stand_in), and the process ends there.
- cache: it says the size of a whole cache and the device of each of its layers, which are of one size.
- compute: when nothing is allocated, the assignment of each layer's first norm to the layer's device is lost
  (ggml_backend_sched_reserve_size resets it), and every device but the first is said to receive that norm as a further
  input. The log shows both plans (GGML_SCHED_DEBUG=1); a further input's copies are taken off.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stoker.domain.measurements import Buffers, MemoryMeasurement
from stoker.domain.units import MIB
from tests.referee.options import Options, placement_arguments
from tests.referee.processes import RefereeError, log_until
from tests.referee.rpc_stand_in import rpc_stand_in

_SIZE = re.compile(r"(\w+): +(\S+) +(model|KV|RS|compute|output) buffer size = *([0-9.]+) MiB")
_ALLOCATES = re.compile(r"print_info: no_alloc += ([01])")
_EMBEDDING = re.compile(r"print_info: n_embd += (\d+)")
_CACHE_LAYER = re.compile(r"llama_kv_cache: layer +\d+: dev = (\S+)")
_CACHE_SIZE = re.compile(r"llama_kv_cache: size = *([0-9.]+) MiB \(")
_GRAPH = re.compile(r"graph_reserve: reserving a graph for ubatch with n_tokens = *(\d+), n_seqs = *(\d+)")
_SPLIT = re.compile(r"## SPLIT #\d+: (\S+) # \d+ inputs")
_INPUT = re.compile(r"\[(\S+) \( *\d+[KMG]\)\]")
_COPIES = re.compile(r"sched copies = (\d+)")
_BREAKDOWN = re.compile(r"common_memory_breakdown_print: \| +- (\S+) .*\( *\d+ = +(\d+) \+ +(\d+) \+ +(\d+)\)")


@dataclass
class _Graph:
    """One plan of the micro-batch: the inputs that each backend receives from others."""

    tokens: int
    inputs: Counter[str] = field(default_factory=Counter)


@dataclass
class _Plan:
    """What the log said so far."""

    embedding: int = 0
    copies: int = 1
    expected_weights: int = 0  # number of weight buffers
    weights: dict[str, float] = field(default_factory=dict)  # MiB by buffer, as all that follows
    cache: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    compute: dict[str, float] = field(default_factory=dict)
    output: dict[str, float] = field(default_factory=dict)
    graphs: list[_Graph] = field(default_factory=list)
    whole: dict[str, tuple[int, ...]] = field(default_factory=dict)  # (weights, cache, compute) as the table has them
    _layers: Counter[str] = field(default_factory=Counter)
    _dry: bool = False

    def read(self, line: str) -> bool:
        """Whether `line` was the last that is needed."""
        if match := _ALLOCATES.search(line):
            self._dry = match[1] == "1"
        elif match := _EMBEDDING.search(line):
            self.embedding = int(match[1])
        elif match := _SIZE.search(line):
            self._read_size(match[2], match[3], float(match[4]))
        elif self._dry:
            self._read_plan(line)
        return not self._dry and self.expected_weights > 0 and len(self.weights) == self.expected_weights

    def _read_size(self, buffer: str, kind: str, size: float) -> None:
        if not self._dry:
            if kind == "model":
                self.weights[buffer] = size
        elif kind == "model":
            self.expected_weights += 1
        elif kind == "RS":
            self.cache[buffer] += size  # the state is allocated even in a dry run
        elif kind == "compute":
            self.compute[buffer] = size
        elif kind == "output":
            self.output[buffer] = size

    def _read_plan(self, line: str) -> None:
        if match := _CACHE_LAYER.search(line):
            self._layers[match[1]] += 1
        elif match := _CACHE_SIZE.search(line):
            each = float(match[1]) / self._layers.total()
            for device, count in self._layers.items():
                self.cache[device] += count * each
            self._layers.clear()
        elif match := _GRAPH.search(line):
            tokens, sequences = int(match[1]), int(match[2])
            self.graphs.append(_Graph(-(-tokens // sequences) * sequences))
        elif (match := _SPLIT.search(line)) and self.graphs:
            self.graphs[-1].inputs[match[1]] += len(_INPUT.findall(line))
        elif match := _COPIES.search(line):
            self.copies = int(match[1])
        elif match := _BREAKDOWN.search(line):
            self.whole[match[1]] = (int(match[2]), int(match[3]), int(match[4]))

    def measurement(self) -> MemoryMeasurement:
        """The server's own numbers, in the order of its devices, the host last."""
        sized, final = self.graphs[-3], self.graphs[-1]
        buffers: dict[str, Buffers] = {}
        for name in dict.fromkeys([*self.weights, *self.compute, *self.output]):
            device = name.split("[")[0]
            compute = round(self.compute.get(name, 0) * MIB)
            if (further := sized.inputs[name] - final.inputs[name]) > 0:
                if self.copies == 1:
                    raise RefereeError(f"{name} receives {further} further inputs without copies")
                compute -= further * self.copies * self.embedding * sized.tokens * 4
            cache = self.cache[name] + (self.cache[device] if device != name else 0)
            if device in self.whole and not self.whole[device][1] - 0.02 <= cache < self.whole[device][1] + 1.02:
                raise RefereeError(
                    f"the cache of {name} is {self.whole[device][1]} MiB, not {cache:.2f}: unequal layers"
                )
            buffers[name] = Buffers(
                weights=round(self.weights.get(name, 0) * MIB),
                cache=round(cache * MIB),
                compute=compute,
                output=round(self.output.get(name, 0) * MIB),
            )
        ordered = sorted(buffers.items(), key=lambda item: ("RPC" not in item[0], _number(item[0])))
        return MemoryMeasurement(buffers=tuple(ordered))


def _number(name: str) -> int:
    match = re.match(r"RPC(\d+)", name)
    return int(match[1]) if match else 0


def dry_run(binaries: Path, model: Path, options: Options, split: Sequence[int]) -> MemoryMeasurement:
    """What a llama-server with `options` and `split` layers a device would allocate for `model`.

    Raises RefereeError when llama.cpp refuses the model.
    """
    with rpc_stand_in(len(split)) as endpoint:
        return plan(binaries, [*options.arguments(model), *placement_arguments(split, endpoint)])


def plan(binaries: Path, arguments: Sequence[str]) -> MemoryMeasurement:
    """What a llama-server with `arguments` would allocate: to 0.01 MiB, and of the model only the header is read.

    The layers must be on devices, and those must be the stand-in's. Only one cache of unequal layers is refused.

    Raises RefereeError when llama.cpp refuses the model.
    """
    found = _Plan()
    command = [str(binaries / "llama-server"), *arguments, "-fit", "on", "--load-mode", "none", "-lv", "5"]
    log_until(command, found.read, {"GGML_SCHED_DEBUG": "1"})
    return found.measurement()
