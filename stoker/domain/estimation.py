"""How much memory a dense transformer needs in llama.cpp, from its header alone.

The formulae follow llama.cpp's allocations as its log states them, with flash attention on and one KV stream a slot.
Weights and KV cache are exact. Compute is the peak of its graph allocator for one micro-batch: versions differ by a
copy or two of the micro-batch's embeddings, and the most is taken.
tests/stoker/domain/test_estimation_against_engine.py holds all of it against the engine.

Weights are counted once. Where the CPU's kernels want them in another order (Q4_0, Q4_K and others), the engine keeps
its own copy, and the pages of the mapped file are cache that the system takes back when it needs them.
"""

from typing import NamedTuple

from stoker.domain.base import Bytes, Value
from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.gguf import ModelProfile
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind

DEFAULT_CONTEXT = 8192  # tokens a slot, when neither the administrator nor the model asks for less
CONTEXT_STEP = 256  # cells: llama.cpp rounds a slot's context up to a multiple of this

PROMPT_CACHE = 256 * MIB  # --cache-ram: prompts kept in RAM when their slot is given to another
PROCESS_OVERHEAD = 128 * MIB  # interpreter, library, threads: 40 MiB were measured at rest
TOKENIZER_OVERHEAD = 512  # bytes a vocabulary entry: 160 to 220 were measured
DRIVER_OVERHEAD = 512 * MIB  # RAM that an accelerator's driver takes in the process; not measured yet
DEVICE_OVERHEAD = 1 * GIB  # driver context, kernels, pools: llama.cpp's own margin (--fit-target); not measured yet

_INDICES = 40  # bytes a token: ids, positions and cell numbers of a micro-batch
# Elements and bytes of a block of each cache type (ggml's block sizes).
_CACHE_BLOCKS = {
    CacheType.F16: (1, 2),
    CacheType.BF16: (1, 2),
    CacheType.Q8_0: (32, 34),
    CacheType.Q4_0: (32, 18),
}


class MemoryEstimate(Value):
    """Bytes that one whole model on one device needs, and beside it on the host (RAM).

    On the CPU everything is host memory: `device_*` are then 0 and `host_*` hold it all.
    """

    context_length: int  # tokens a slot, as it will be asked of the engine
    slots: int
    device_weights: Bytes = 0
    device_cache: Bytes = 0
    device_compute: Bytes = 0
    device_overhead: Bytes = 0  # driver context and libraries
    host_weights: Bytes = 0
    host_cache: Bytes = 0
    host_compute: Bytes = 0
    host_overhead: Bytes = 0  # the process itself, output buffer, prompt cache

    @property
    def device_total(self) -> int:
        """Bytes to claim on the device."""
        return self.device_weights + self.device_cache + self.device_compute + self.device_overhead

    @property
    def host_total(self) -> int:
        """Bytes to claim of the host's RAM."""
        return self.host_weights + self.host_cache + self.host_compute + self.host_overhead


class EstimateRefusal(Value):
    """No estimate: the model cannot run as asked, or its memory cannot be worked out; `message` says why."""

    message: str


def estimate(
    profile: ModelProfile, options: EngineOptions, device_kind: DeviceKind
) -> MemoryEstimate | EstimateRefusal:
    """What the whole model needs with `options` on one device of `device_kind`, and beside it on the host."""
    context = options.context_length or default_context(profile)
    if (refusal := _refuse(profile, options, context)) is not None:
        return refusal
    streams, cells = cache_shape(context, options.slots, unified=options.embeddings or profile.pooling)
    micro_batch = _MicroBatch.of(profile, options, context, cells)
    cache = kv_cache_size(profile, options.cache_type, streams * cells)
    repeating = sum(layer.weights for layer in profile.layers)
    process = PROCESS_OVERHEAD + TOKENIZER_OVERHEAD * profile.vocabulary + PROMPT_CACHE + micro_batch.results
    if device_kind is DeviceKind.CPU:
        return MemoryEstimate(
            context_length=context,
            slots=options.slots,
            host_weights=profile.input_weights + repeating + profile.output_weights,
            host_cache=cache,
            host_compute=micro_batch.inputs + micro_batch.peak + 2 * micro_batch.embeddings,
            host_overhead=process + micro_batch.converted,
        )
    return MemoryEstimate(
        context_length=context,
        slots=options.slots,
        device_weights=repeating + profile.output_weights + (profile.input_weights if profile.tied_output else 0),
        device_cache=cache,
        device_compute=micro_batch.inputs + micro_batch.peak,
        device_overhead=DEVICE_OVERHEAD,
        host_weights=profile.input_weights,
        host_compute=micro_batch.inputs + 4 * micro_batch.embeddings,
        host_overhead=process + DRIVER_OVERHEAD,
    )


def default_context(profile: ModelProfile) -> int:
    """Tokens a slot when the administrator does not say: what the model was trained for, at most 8192."""
    return min(profile.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def cache_shape(context: int, slots: int, *, unified: bool) -> tuple[int, int]:
    """KV streams and the cells of each that llama.cpp allocates for `slots` slots of `context` tokens.

    Generating, every slot has a stream of its own. Embedding, all share one (unified): with streams, llama.cpp cuts
    a batch of unequal inputs into pieces and pools only the last piece of the longer ones.
    """
    return (1, padded(context * slots)) if unified else (slots, padded(context))


def padded(tokens: int) -> int:
    """KV cells that llama.cpp allocates for a stream of `tokens` tokens."""
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


def kv_cache_size(profile: ModelProfile, cache_type: CacheType, cells: int) -> int:
    """Bytes of K and V in all layers for `cells` cells, those of all streams together (llama.cpp, llama_kv_cache)."""
    elements, size = _CACHE_BLOCKS[cache_type]
    heads = sum(layer.heads_kv for layer in profile.layers)
    return cells * heads * (profile.key_length + profile.value_length) * size // elements


class _MicroBatch(NamedTuple):
    """Bytes that computing one micro-batch takes: what llama.cpp reserves for the largest graph (graph_reserve)."""

    inputs: int  # attention mask (F16 with flash attention) and indices
    embeddings: int  # the micro-batch's rows of embedding_length
    peak: int  # the most that is alive at once between two layers
    converted: int  # on the CPU: the widest activations once more, as the weights' type wants them
    results: int  # rows handed to the server

    @classmethod
    def of(cls, profile: ModelProfile, options: EngineOptions, context: int, cells: int) -> "_MicroBatch":
        embeds = options.embeddings or profile.pooling
        tokens = min(options.micro_batch, options.batch, context * options.slots)
        tokens = -(-tokens // options.slots) * options.slots  # the graph takes equally many of each slot
        rows = tokens if embeds else options.slots  # results: of each token, or of each slot's last
        width = max((layer.feed_forward for layer in profile.layers), default=0)
        heads_kv = max((layer.heads_kv for layer in profile.layers), default=0)
        lengths = profile.key_length + profile.value_length
        embeddings = 4 * tokens * profile.embedding_length
        return cls(
            inputs=tokens * (2 * cells + _INDICES),
            embeddings=embeddings,
            peak=max(
                4 * tokens * width * (3 if profile.gated else 1) + 4 * embeddings,  # feed-forward
                4 * tokens * lengths * (profile.head_count + heads_kv) + embeddings,  # attention: Q, its result, K, V
                4 * rows * profile.vocabulary + 4 * embeddings,  # logits
            ),
            converted=2 * tokens * max(width, profile.embedding_length),
            results=4 * rows * (profile.vocabulary + (profile.embedding_length if embeds else 0)),
        )


def _refuse(profile: ModelProfile, options: EngineOptions, context: int) -> EstimateRefusal | None:
    if profile.unsupported:
        return EstimateRefusal(message=profile.unsupported)
    if profile.context_length and context > profile.context_length:
        return EstimateRefusal(
            message=f"context_length {context} is more than the {profile.context_length} tokens that the model "
            f"was trained for: ask for {profile.context_length} or less"
        )
    elements, _ = _CACHE_BLOCKS[options.cache_type]
    for part, length in (("keys", profile.key_length), ("values", profile.value_length)):
        if length % elements:
            return EstimateRefusal(
                message=f"cache_type {options.cache_type} stores {elements} elements at once, and this model's {part} "
                f"have {length}: ask for f16 or bf16"
            )
    return None
