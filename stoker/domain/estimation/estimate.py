"""The estimate: weights and cache as llama.cpp allocates them, compute as the peak of its graph allocator.

Weights and cache are exact. Compute follows the formulae of compute.py, which were held against the engine for the
architectures that tests/architectures.py and tests/published.py write: never more than 2 % too low.

Weights are counted once. Where the CPU's kernels want them in another order (Q4_0, Q4_K and others), the engine keeps
its own copy, and the pages of the mapped file are cache that the system takes back when it needs them.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from typing import NamedTuple

from stoker.domain.architectures import families
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.cache import CACHE_BLOCKS, cache_shape, embeds, is_quantised, layer_cache
from stoker.domain.estimation.companions import with_draft, with_projector
from stoker.domain.estimation.compute import COPIES, MicroBatch
from stoker.domain.estimation.types import DeviceMemory, EstimateRefusal, HostMemory, MemoryEstimate
from stoker.domain.gguf import ModelProfile, ProjectorProfile
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind

DEFAULT_CONTEXT = 8192  # tokens a slot, when neither the administrator nor the model asks for less
MAX_DEVICES = 15  # llama.cpp's GGML_SCHED_MAX_BACKENDS, less the CPU

PROMPT_CACHE = 256 * MIB  # --cache-ram: prompts kept in RAM when their slot is given to another
PROCESS_OVERHEAD = 128 * MIB  # interpreter, library, threads: 40 MiB were measured at rest
TOKENIZER_OVERHEAD = 512  # bytes a vocabulary entry: 160 to 220 were measured
DRIVER_OVERHEAD = 512 * MIB  # RAM that an accelerator's driver takes in the process; not measured yet
DEVICE_OVERHEAD = 1 * GIB  # driver context, kernels, pools: llama.cpp's own margin (--fit-target); not measured yet


def whole(profile: ModelProfile) -> tuple[int]:
    """The split that puts the whole model on one device."""
    return (profile.block_count + 1,)


def estimate(
    profile: ModelProfile,
    options: EngineOptions,
    split: Sequence[int] = (),
    kinds: Sequence[DeviceKind] = (),
    *,
    projector: ProjectorProfile | None = None,
    draft: ModelProfile | None = None,
) -> MemoryEstimate | EstimateRefusal:
    """What the model needs with `options` when its layers are spread by `split`.

    `split`: layers of each device in order, the output layer counted as one. They are the model's last; what they
    leave stays on the host's CPU, as does everything when there are none. `kinds`: of the devices, CUDA where missing;
    a CPU may be one of them, behind an RPC server. A `projector` and a `draft` model stand on the first device.
    """
    context = options.context_length or min(map(default_context, (profile, draft or profile)))
    model = ModelMemory.of(profile, options, context)
    if isinstance(model, EstimateRefusal):
        return model
    if message := wrong_split(profile, split):
        return EstimateRefusal(message=message)
    options, found = model.options, model.spread(split, kinds)
    on_gpu = bool(split) and (not kinds or kinds[0] is not DeviceKind.CPU)
    if projector is not None:
        found = with_projector(found, projector, options, on_gpu=on_gpu)
    if draft is not None:
        beside = estimate(
            draft, options.model_copy(update={"context_length": context}), whole(draft)[: len(split)], kinds
        )
        if isinstance(beside, EstimateRefusal):
            return EstimateRefusal(message=f"the draft model: {beside.message}")
        found = with_draft(found, beside)
    return found


def without_prompt_cache(estimate: MemoryEstimate) -> MemoryEstimate:
    """The same of a main server that keeps no prompts: one whose devices are on several workers (`llamacpp`)."""
    host = estimate.host.model_copy(update={"overhead": estimate.host.overhead - PROMPT_CACHE})
    return estimate.model_copy(update={"host": host})


def device_overhead(*, on_gpu: bool) -> int:
    """Bytes of the driver on a device with layers."""
    return DEVICE_OVERHEAD if on_gpu else 0


def default_context(profile: ModelProfile) -> int:
    """Tokens a slot when the administrator does not say: what the model was trained for, at most 8192."""
    return min(profile.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


class Parts(NamedTuple):
    """Bytes on one device, by what they are for, less the driver's."""

    weights: int
    cache: int
    compute: int


class ModelMemory(NamedTuple):
    """A model with its options, and what follows from them for all devices alike."""

    profile: ModelProfile
    options: EngineOptions
    context: int  # tokens a slot
    cache: tuple[int, ...]  # bytes of each layer
    batch: MicroBatch

    @classmethod
    def of(cls, profile: ModelProfile, options: EngineOptions, context: int) -> "ModelMemory | EstimateRefusal":
        """Of a model whose slots have `context` tokens each, unless llama.cpp would refuse that."""
        if message := profile.unsupported or _context(profile, context) or _cache_type(profile, options):
            return EstimateRefusal(message=message)
        if profile.no_flash_attention:
            options = options.model_copy(update={"flash_attention": False})
        shape = cache_shape(profile, options, context)
        batch = MicroBatch.of(profile, options, shape, context)
        return cls(profile, options, context, layer_cache(profile, options, shape), batch)

    def spread(self, split: Sequence[int], kinds: Sequence[DeviceKind]) -> MemoryEstimate:
        """With `split` layers on each device, and the layers before them on the host."""
        first = self.profile.block_count + 1 - sum(split)  # layer that is on a device
        pipelined = len(split) > 1 and first == 0
        bounds = [first, *(first + layers for layers in accumulate(split))]
        on_gpu = [kind is not DeviceKind.CPU for kind in kinds[: len(split)]]
        on_gpu += [True] * (len(split) - len(on_gpu))
        return MemoryEstimate(
            context_length=self.context,
            slots=self.options.slots,
            devices=tuple(
                self.on_device(start, end, on_gpu=gpu, pipelined=pipelined)
                for (start, end), gpu in zip(pairwise(bounds), on_gpu, strict=True)
            ),
            host=self.on_host(first, any_gpu=any(on_gpu), pipelined=pipelined),
            caution=self.profile.caution,
        )

    def on_device(self, start: int, end: int, *, on_gpu: bool, pipelined: bool) -> DeviceMemory:
        """Layers `start` to before `end`; the one after the last is the output."""
        if start == end:
            return DeviceMemory()
        parts = next(islice(self.on_devices(end, on_gpu=on_gpu, pipelined=pipelined), end - start - 1, None))
        return DeviceMemory(layers=end - start, overhead=device_overhead(on_gpu=on_gpu), **parts._asdict())

    def on_devices(self, end: int, *, on_gpu: bool, pipelined: bool) -> Iterator[Parts]:
        """A device with the layers from each start to before `end`: from `end` - 1, then back to 0."""
        profile, layers, copies = self.profile, self.profile.layers[:end], COPIES if pipelined else 1
        computed = self.batch.devices(end, copies=copies)
        borrowed = self._borrowed(end) if profile.caching_layers else repeat(0)
        weights = cache = 0
        if end > len(layers):
            weights += profile.output_weights + profile.tied_weights + on_gpu * profile.output_padding
            yield Parts(weights, cache, self._cautious(next(computed)))
        weights += profile.shared_weights
        for layer, kept, compute, copied in zip(
            reversed(layers), reversed(self.cache[:end]), computed, borrowed, strict=False
        ):
            weights += layer.weights + on_gpu * layer.padding
            cache += kept
            yield Parts(weights, cache, self._cautious(compute + copies * copied))

    def on_host(self, first: int, *, any_gpu: bool, pipelined: bool) -> HostMemory:
        """The layers before `first`, and what never leaves the host."""
        profile, batch = self.profile, self.batch
        layers, output = profile.layers[:first], first > profile.block_count
        weights = profile.input_weights + sum(layer.weights for layer in layers)
        compute = batch.inputs(profile.layers) * (COPIES if pipelined else 1)
        overhead = PROCESS_OVERHEAD + TOKENIZER_OVERHEAD * profile.vocabulary + PROMPT_CACHE
        if layers:
            weights += profile.shared_weights + (profile.output_weights if output else 0)
            compute += batch.peak(0, first, output=output, received=False) + 3 * batch.residual
            overhead += batch.converted(layers)
        else:
            compute += ((5 if pipelined else 2) + profile.positioned) * batch.residual
        compute += (2 + pipelined) * batch.per_layer
        return HostMemory(
            layers=first,
            weights=weights,
            cache=sum(self.cache[:first]),
            compute=self._cautious(compute),
            output=batch.results,
            overhead=overhead + (DRIVER_OVERHEAD if any_gpu else 0),
        )

    def _borrowed(self, end: int) -> Iterator[int]:
        """Bytes of other devices' caches that the layers from each start to before `end` read: each gets a copy."""
        layers, own = self.profile.layers[:end], self.profile.caching_layers
        readers = {own - 1: 0, own - 2: 0}  # of the last two layers that keep a cache
        for start in reversed(range(len(layers))):
            if start >= own:
                readers[own - (2 if layers[start].windowed else 1)] += 1
            yield sum(count * self.cache[source] for source, count in readers.items() if count and 0 <= source < start)

    def _cautious(self, compute: int) -> int:
        """With a margin, where the architecture is not known."""
        return compute + compute // 4 if self.profile.caution else compute


def _context(profile: ModelProfile, context: int) -> str:
    if profile.context_length and context > profile.context_length:
        return (
            f"context_length {context} is more than the {profile.context_length} tokens that the model "
            f"was trained for: ask for {profile.context_length} or less"
        )
    return ""


def _cache_type(profile: ModelProfile, options: EngineOptions) -> str:
    """What llama_init_from_model refuses."""
    keys, values = options.cache_type, options.value_cache_type
    lengths = (
        ("keys", "cache_type", keys, {profile.key_length, profile.windowed_key_length}),
        ("values", "cache_type_v", values, {profile.value_length, profile.windowed_value_length}),
    )
    for part, field, cache_type, found in lengths:
        elements, _ = CACHE_BLOCKS[cache_type]
        if uneven := [length for length in sorted(found) if length % elements]:
            return (
                f"{field} {cache_type} stores {elements} elements at once, and this model's {part} have {uneven[0]}: "
                "ask for f16 or bf16"
            )
    if CACHE_BLOCKS[values][0] > 1 and profile.no_flash_attention:
        return f"values of the type {values} need flash attention, which {profile.architecture} has not: ask for f16"
    if CACHE_BLOCKS[values][0] > 1 and not options.flash_attention:
        return f"values of the type {values} need flash attention: set flash_attention to true, or cache_type_v to f16"
    if (
        profile.architecture in families.FEW_NODES
        and profile.block_count > families.FEW_NODES[profile.architecture]
        and options.slots > 1
        and not (options.kv_unified or embeds(profile, options))
        and (is_quantised(keys) or is_quantised(values))
    ):
        return (
            f"llama.cpp aborts with a {keys} cache, {options.slots} slots and {profile.architecture} of "
            f"{profile.block_count} layers: set kv_unified to true, slots to 1, or cache_type to f16"
        )
    if keys is not values and any(layer.attends and not layer.value_width for layer in profile.layers):
        return f"{profile.architecture} works values out of its keys: cache_type_v must be {keys} too, and is {values}"
    return ""


def wrong_split(profile: ModelProfile, split: Sequence[int]) -> str:
    """Why the model cannot be spread so; empty: it can."""
    most = profile.block_count + 1
    if len(split) > MAX_DEVICES:
        return f"the split names {len(split)} devices: llama.cpp takes at most {MAX_DEVICES}"
    if any(layers < 0 for layers in split) or sum(split) > most:
        return f"the split is {','.join(map(str, split))}: layers a device, together at most {most} (with the output)"
    return ""
