"""Decoders made of attention and feed-forward layers alone. All lengths default to those of a tiny model.

Each function is one architecture of llama.cpp: the tensors of its load_arch_tensors, the keys of its load_arch_hparams.
"""

from tests.architectures.gguf_file import Metadata
from tests.architectures.sketch import Sketch

EPSILON = 1e-5


def base(
    architecture: str,
    layers: int,
    embedding: int,
    vocabulary: int,
    context: int,
    heads: int,
    heads_kv: int,
    feed_forward: int = 0,
    head_size: int = 0,
    layer_norm: bool = False,
) -> Sketch:
    sketch = Sketch(architecture, embedding, vocabulary)
    keys: dict[str, Metadata] = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": embedding,
        "attention.head_count": heads,
        "attention.head_count_kv": heads_kv,
        "attention.layer_norm_epsilon" if layer_norm else "attention.layer_norm_rms_epsilon": EPSILON,
        "rope.freq_base": 10_000.0,
    }
    if feed_forward:
        keys["feed_forward_length"] = feed_forward
    if head_size:
        keys |= {"attention.key_length": head_size, "attention.value_length": head_size}
    sketch.keys(keys)
    return sketch


def llama(
    layers: int = 5,
    embedding: int = 384,
    heads: int = 6,
    heads_kv: int = 2,
    feed_forward: int = 1024,
    vocabulary: int = 4096,
    context: int = 8192,
    experts: int = 0,
    experts_used: int = 0,
    tied: bool = False,
    rope_factors: bool = False,
) -> Sketch:
    """Llama 2 and 3, Mistral; Mixtral with `experts`. `rope_factors`: those of Llama 3.1."""
    sketch = base("llama", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward)
    head_size = embedding // heads
    sketch.keys({"rope.dimension_count": head_size})
    if experts:
        sketch.keys({"expert_count": experts, "expert_used_count": experts_used})
    if rope_factors:
        sketch.add("rope_freqs", head_size // 2)
    sketch.ends(tied=tied)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.attention(heads, heads_kv, head_size)
        if experts:
            sketch.experts(experts, feed_forward)
        else:
            sketch.feed_forward(feed_forward)
    return sketch


def qwen2(
    layers: int = 4,
    embedding: int = 448,
    heads: int = 7,
    heads_kv: int = 1,
    feed_forward: int = 1216,
    vocabulary: int = 5120,
    context: int = 8192,
    tied: bool = True,
) -> Sketch:
    """Qwen 2 and 2.5."""
    sketch = base("qwen2", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward)
    sketch.ends(tied=tied)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.attention(heads, heads_kv, embedding // heads, bias="qkv")
        sketch.feed_forward(feed_forward)
    return sketch


def qwen3(
    layers: int = 4,
    embedding: int = 320,
    heads: int = 8,
    heads_kv: int = 2,
    head_size: int = 64,
    feed_forward: int = 960,
    vocabulary: int = 4096,
    context: int = 8192,
    tied: bool = False,
    reranker: bool = False,
) -> Sketch:
    """Qwen 3. `reranker`: with the classifier that answers yes or no."""
    sketch = base("qwen3", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, head_size)
    sketch.ends(tied=tied)
    if reranker:
        sketch.keys({"pooling_type": 4, "classifier.output_labels": ["yes", "no"]})
        sketch.add("cls.output", embedding, 2)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.attention(heads, heads_kv, head_size, norms=True)
        sketch.feed_forward(feed_forward)
    return sketch


def phi3(
    layers: int = 4,
    embedding: int = 384,
    heads: int = 6,
    heads_kv: int = 6,
    feed_forward: int = 1024,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Phi 3: one matrix for queries, keys and values, one for gate and up. Its sliding window is not used."""
    sketch = base("phi3", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward)
    sketch.keys({"attention.sliding_window": 2047, "rope.dimension_count": embedding // heads})
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.fused_attention(heads, heads_kv, embedding // heads)
        sketch.feed_forward(feed_forward, fused=True)
    return sketch


def gemma2(
    layers: int = 6,
    embedding: int = 288,
    heads: int = 4,
    heads_kv: int = 2,
    head_size: int = 96,
    feed_forward: int = 1152,
    vocabulary: int = 8192,
    context: int = 8192,
    window: int = 512,
) -> Sketch:
    """Gemma 2: every other layer looks back a window only; tied."""
    sketch = base("gemma2", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, head_size)
    sketch.keys({"attention.sliding_window": window, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})
    sketch.ends(tied=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        sketch.attention(heads, heads_kv, head_size)
        sketch.feed_forward(feed_forward)
    return sketch


def gemma3(
    layers: int = 8,
    embedding: int = 320,
    heads: int = 4,
    heads_kv: int = 1,
    head_size: int = 128,
    feed_forward: int = 1344,
    vocabulary: int = 8192,
    context: int = 8192,
    window: int = 512,
) -> Sketch:
    """Gemma 3: five windowed layers to a full one; tied."""
    sketch = base("gemma3", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, head_size)
    sketch.keys({"attention.sliding_window": window})
    sketch.ends(tied=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        sketch.attention(heads, heads_kv, head_size, norms=True)
        sketch.feed_forward(feed_forward)
    return sketch


def cohere2(
    layers: int = 8,
    embedding: int = 512,
    heads: int = 8,
    heads_kv: int = 2,
    feed_forward: int = 1408,
    vocabulary: int = 8192,
    context: int = 8192,
    window: int = 256,
) -> Sketch:
    """Command R7B and Command A: attention and feed-forward side by side, three windowed layers to a full one; tied."""
    sketch = base("cohere2", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, layer_norm=True)
    sketch.keys({"attention.sliding_window": window, "logit_scale": 0.25})
    sketch.ends(tied=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm")
        sketch.attention(heads, heads_kv, embedding // heads)
        sketch.feed_forward(feed_forward)
    return sketch


def command_r(
    layers: int = 4,
    embedding: int = 512,
    heads: int = 8,
    heads_kv: int = 8,
    feed_forward: int = 1408,
    vocabulary: int = 8192,
    context: int = 8192,
) -> Sketch:
    """Command R: as cohere2 without windows; tied."""
    sketch = base("command-r", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, layer_norm=True)
    sketch.keys({"logit_scale": 0.0625})
    sketch.ends(tied=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm")
        sketch.attention(heads, heads_kv, embedding // heads)
        sketch.feed_forward(feed_forward)
    return sketch
