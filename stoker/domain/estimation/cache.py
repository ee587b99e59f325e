"""Bytes of KV cache and recurrent state (llama.cpp: llama_kv_cache, llama_kv_cache_iswa, llama_memory_recurrent)."""

from typing import NamedTuple

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.gguf import LayerShape, ModelProfile

CONTEXT_STEP = 256  # cells: llama.cpp rounds a slot's context, and a sliding window's, up to a multiple of this

# Elements and bytes of a block of each cache type (ggml's block sizes).
CACHE_BLOCKS = {
    CacheType.F32: (1, 4),
    CacheType.F16: (1, 2),
    CacheType.BF16: (1, 2),
    CacheType.Q8_0: (32, 34),
    CacheType.Q5_1: (32, 24),
    CacheType.Q5_0: (32, 22),
    CacheType.Q4_1: (32, 20),
    CacheType.Q4_0: (32, 18),
    CacheType.IQ4_NL: (32, 18),
}


class CacheShape(NamedTuple):
    """How many cells llama.cpp allocates a layer."""

    streams: int  # parts of the cache that no slot shares with another
    cells: int  # of each stream, in a layer that keeps the whole context
    windowed: int  # of each stream, in a layer with a sliding window

    def of(self, layer: LayerShape) -> int:
        """Cells of `layer`, those of all streams together."""
        return self.streams * (self.windowed if layer.windowed else self.cells)


def cache_shape(profile: ModelProfile, options: EngineOptions, context: int) -> CacheShape:
    """The cells for slots of `context` tokens each.

    Generating, every slot has a stream of its own unless the options unify them. Embedding, all share one: with
    streams, llama.cpp cuts a batch of unequal inputs into pieces and pools only the last piece of the longer ones.
    """
    unified = options.kv_unified or embeds(profile, options)
    streams, cells = (1, padded(context * options.slots)) if unified else (options.slots, padded(context))
    micro_batch = micro_batch_tokens(profile, options, context)
    reach = profile.sliding_window * (options.slots if unified else 1) + micro_batch
    return CacheShape(streams=streams, cells=cells, windowed=padded(min(cells, reach)))


def micro_batch_tokens(profile: ModelProfile, options: EngineOptions, context: int) -> int:
    """Tokens of one micro-batch when slots have `context` tokens each."""
    _, micro_batch = batch_sizes(options, context, embedding=embeds(profile, options))
    return min(micro_batch, padded(context * options.slots) if profile.encoder else context * options.slots)


def batch_sizes(options: EngineOptions, context: int, *, embedding: bool) -> tuple[int, int]:
    """Tokens of a batch and of a micro-batch that the engine is asked for, when slots have `context` tokens each.

    Every slot must be able to answer in one batch: llama.cpp aborts where there are fewer tokens than slots. An input
    to embed must fit into one micro-batch, the server reserves a result for each token of a batch, and pooling aborts
    where the tokens cannot be shared equally among the slots.
    """
    batch, micro_batch = max(options.batch, options.slots), options.micro_batch
    if not embedding:
        return batch, min(batch, micro_batch)
    most = padded(context * options.slots) // options.slots  # of a slot
    shared = min(-(-min(batch, micro_batch) // options.slots), most) * options.slots
    return shared, shared


def embeds(profile: ModelProfile, options: EngineOptions) -> bool:
    """Whether the engine answers embeddings or scores: a result of each token, and no text."""
    return options.embeddings or profile.pooling


def padded(tokens: int) -> int:
    """KV cells that llama.cpp allocates for a stream of `tokens` tokens."""
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


def layer_cache(profile: ModelProfile, options: EngineOptions, shape: CacheShape) -> tuple[int, ...]:
    """Bytes that each layer keeps: keys, values and recurrent state of all slots."""
    widest = max((layer.value_width for layer in profile.layers), default=0)
    sizes = []
    for layer in profile.layers:
        # Without flash attention values lie transposed, and every layer's are as wide as the widest's.
        padded_values = not options.flash_attention and (layer.value_width or profile.padded_values)
        values = widest if padded_values else layer.value_width
        row = _row(options.cache_type, layer.key_width) + _row(options.value_cache_type, values)
        sizes.append(shape.of(layer) * row + options.slots * layer.state)
    return tuple(sizes)


def is_quantised(cache_type: CacheType) -> bool:
    """Whether elements are stored in blocks that share a scale."""
    return CACHE_BLOCKS[cache_type][0] > 1


def _row(cache_type: CacheType, elements: int) -> int:
    block, size = CACHE_BLOCKS[cache_type]
    return elements * size // block
