"""How much memory a dense transformer needs in llama.cpp, from its header alone.

The formulae follow llama.cpp's own allocations with flash attention on and one KV stream a slot. KV cache and weights
are exact; compute is the peak of its graph allocator for one micro-batch. tests/.../test_estimation_against_engine.py
holds them against the engine's own numbers.
"""

from stoker.domain.base import Bytes, Value
from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.gguf import ModelProfile
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind

DEFAULT_CONTEXT = 8192  # tokens a slot, when neither the administrator nor the model asks for less
CONTEXT_STEP = 256  # llama.cpp rounds a slot's context up to a multiple of this

PROMPT_CACHE = 256 * MIB  # --cache-ram: prompts that the server keeps in RAM when a slot is given to another
PROCESS_OVERHEAD = 192 * MIB  # the engine's process: interpreter, library, threads, tokenizer
DEVICE_OVERHEAD = 1 * GIB  # driver context, kernels and pools: llama.cpp's own margin a device (--fit-target)

# Elements and bytes of one block of each cache type (ggml's block sizes).
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
    """What the whole model needs with `options` on one device of `device_kind`."""
    context = options.context_length or default_context(profile)
    if (refusal := _refuse(profile, options, context)) is not None:
        return refusal
    cache = kv_cache_size(profile, options.cache_type, context, options.slots)
    peak, mask, embeddings = _compute(profile, options, context)
    overhead = PROCESS_OVERHEAD + PROMPT_CACHE + options.slots * profile.vocabulary * 4  # with the output buffer
    repeating = sum(layer.weights for layer in profile.layers)
    if device_kind is DeviceKind.CPU:
        return MemoryEstimate(
            context_length=context,
            slots=options.slots,
            host_weights=profile.input_weights + repeating + profile.output_weights,
            host_cache=cache,
            host_compute=mask + peak + 2 * embeddings,
            host_overhead=overhead,
        )
    tied = profile.input_weights if profile.tied_output else 0
    return MemoryEstimate(
        context_length=context,
        slots=options.slots,
        device_weights=repeating + profile.output_weights + tied,
        device_cache=cache,
        device_compute=mask + peak,
        device_overhead=DEVICE_OVERHEAD,
        host_weights=profile.input_weights,
        host_compute=mask + 4 * embeddings,
        host_overhead=overhead,
    )


def default_context(profile: ModelProfile) -> int:
    """Tokens a slot when the administrator does not say: what the model was trained for, at most 8192."""
    return min(profile.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def cells_per_slot(context: int) -> int:
    """KV cells that llama.cpp allocates for a slot of `context` tokens."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP


def kv_cache_size(profile: ModelProfile, cache_type: CacheType, context: int, slots: int) -> int:
    """Bytes of K and V of all layers, one stream a slot (llama.cpp, llama_kv_cache)."""
    elements, size = _CACHE_BLOCKS[cache_type]
    heads = sum(layer.heads_kv for layer in profile.layers)
    return slots * cells_per_slot(context) * heads * (profile.key_length + profile.value_length) * size // elements


def _compute(profile: ModelProfile, options: EngineOptions, context: int) -> tuple[int, int, int]:
    """Bytes of peak activations, attention mask and one row of embeddings for a micro-batch."""
    cells = cells_per_slot(context)
    tokens = min(options.micro_batch, options.batch, cells * options.slots)
    embeddings = profile.embedding_length * tokens * 4
    feed_forward = max((layer.feed_forward for layer in profile.layers), default=0)
    return 3 * feed_forward * tokens * 4 + 4 * embeddings, cells * tokens * 2, embeddings


def _refuse(profile: ModelProfile, options: EngineOptions, context: int) -> EstimateRefusal | None:
    if profile.unsupported:
        return EstimateRefusal(message=profile.unsupported)
    if profile.context_length and context > profile.context_length:
        return EstimateRefusal(
            message=f"context_length {context} is more than the {profile.context_length} tokens that this model "
            f"was trained for: ask for at most {profile.context_length}"
        )
    elements, _ = _CACHE_BLOCKS[options.cache_type]
    for what, length in (("key", profile.key_length), ("value", profile.value_length)):
        if length % elements:
            return EstimateRefusal(
                message=f"cache_type {options.cache_type} needs a {what} length that is a multiple of {elements}, "
                f"and this model's is {length}: choose f16 or bf16"
            )
    return None
