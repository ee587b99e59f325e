"""Models that keep a state instead of, or beside, keys and values."""

from tests.architectures.gguf_file import Metadata
from tests.architectures.sketch import Sketch, per_layer
from tests.architectures.transformers import EPSILON, base


def _state_keys(kernel: int, inner: int, state: int, rank: int, groups: int = 0) -> dict[str, Metadata]:
    keys: dict[str, Metadata] = {
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return keys | ({"ssm.group_count": groups} if groups else {})


def mamba(
    layers: int = 4, embedding: int = 320, state: int = 16, rank: int = 32, vocabulary: int = 4096, context: int = 8192
) -> Sketch:
    """Mamba 1: state only."""
    sketch = base("mamba", layers, embedding, vocabulary, context, 0, 0)
    sketch.keys({"feed_forward_length": 0, **_state_keys(4, 2 * embedding, state, rank)})
    sketch.ends(tied=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm")
        sketch.mamba(2 * embedding, state, rank, 4)
    return sketch


def mamba2(
    layers: int = 4,
    embedding: int = 320,
    inner: int = 640,
    state: int = 64,
    heads: int = 10,
    groups: int = 2,
    vocabulary: int = 4096,
    context: int = 8192,
    tied: bool = False,
) -> Sketch:
    """Mamba 2."""
    sketch = base("mamba2", layers, embedding, vocabulary, context, 0, 0)
    sketch.keys({"feed_forward_length": 0, **_state_keys(4, inner, state, heads, groups)})
    sketch.ends(tied=tied)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm")
        sketch.mamba2(inner, state, heads, groups, 4)
    return sketch


def jamba(
    layers: int = 8,
    embedding: int = 256,
    heads: int = 8,
    heads_kv: int = 2,
    feed_forward: int = 640,
    experts: int = 4,
    experts_used: int = 2,
    state: int = 16,
    rank: int = 32,
    period: int = 4,
    offset: int = 2,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Jamba: one attention layer to `period` - 1 of Mamba, each second feed-forward part experts. An array of heads."""
    sketch = base("jamba", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward)
    attends = [layer % period == offset for layer in range(layers)]
    sketch.keys(
        {
            "attention.head_count_kv": per_layer(layers, lambda layer: heads_kv if attends[layer] else 0),
            "expert_count": experts,
            "expert_used_count": experts_used,
            **_state_keys(4, 2 * embedding, state, rank),
        }
    )
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        if attends[layer]:
            sketch.attention(heads, heads_kv, embedding // heads)
        else:
            sketch.mamba(2 * embedding, state, rank, 4, norms=True)
        if layer % 2:
            sketch.experts(experts, feed_forward)
        else:
            sketch.feed_forward(feed_forward)
    return sketch


def falcon_h1(
    layers: int = 4,
    embedding: int = 320,
    heads: int = 5,
    heads_kv: int = 1,
    head_size: int = 64,
    feed_forward: int = 800,
    inner: int = 480,
    state: int = 64,
    state_heads: int = 15,
    groups: int = 1,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Falcon H1: attention and Mamba 2 side by side in each layer."""
    sketch = base("falcon-h1", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, head_size)
    sketch.keys(_state_keys(4, inner, state, state_heads, groups))
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm")
        sketch.bare("ffn_norm", embedding)
        sketch.mamba2(inner, state, state_heads, groups, 4)
        sketch.attention(heads, heads_kv, head_size)
        sketch.feed_forward(feed_forward)
    return sketch


def qwen3next(
    layers: int = 8,
    embedding: int = 256,
    heads: int = 4,
    heads_kv: int = 1,
    head_size: int = 96,
    experts: int = 8,
    experts_used: int = 3,
    expert_width: int = 128,
    shared_width: int = 160,
    state: int = 64,
    key_heads: int = 2,
    value_heads: int = 4,
    vocabulary: int = 4096,
    context: int = 8192,
    interval: int = 4,
) -> Sketch:
    """Qwen 3 Next: three gated delta nets to one gated attention; experts with a shared one."""
    sketch = base("qwen3next", layers, embedding, vocabulary, context, heads, heads_kv, 2 * embedding, head_size)
    sketch.keys(
        {
            "expert_count": experts,
            "expert_used_count": experts_used,
            "expert_feed_forward_length": expert_width,
            "expert_shared_feed_forward_length": shared_width,
            "full_attention_interval": interval,
            "rope.dimension_count": head_size // 4,
            **_state_keys(4, value_heads * state, state, value_heads, key_heads),
        }
    )
    keys, values = key_heads * state, value_heads * state
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "post_attention_norm")
        if (layer + 1) % interval:
            sketch.add("attn_qkv", embedding, 2 * keys + values)
            sketch.add("attn_gate", embedding, values)
            sketch.add("ssm_conv1d", 4, 2 * keys + values)
            sketch.add("ssm_dt.bias", value_heads)
            sketch.bare("ssm_a", value_heads)
            sketch.add("ssm_ba", embedding, 2 * value_heads)
            sketch.add("ssm_norm", state)
            sketch.add("ssm_out", values, embedding)
        else:
            sketch.attention(heads, heads_kv, head_size, norms=True, gate=True)
        sketch.experts(experts, expert_width)
        sketch.add("ffn_gate_inp_shexp", embedding)
        sketch.feed_forward(shared_width, suffix="_shexp")
    return sketch


def lfm2(
    layers: int = 6,
    embedding: int = 320,
    heads: int = 5,
    heads_kv: int = 1,
    feed_forward: int = 832,
    cache: int = 3,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """LFM 2: short convolutions, each third layer attention; tied. An array of heads."""
    sketch = base("lfm2", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward)
    attends = [layer % 3 == 2 for layer in range(layers)]
    sketch.keys(
        {
            "attention.head_count_kv": per_layer(layers, lambda layer: heads_kv if attends[layer] else 0),
            "shortconv.l_cache": cache,
        }
    )
    sketch.add("token_embd", embedding, vocabulary)
    sketch.norms("token_embd_norm")  # its name for the output norm
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        if attends[layer]:
            sketch.attention(heads, heads_kv, embedding // heads, norms=True)
        else:
            sketch.add("shortconv.conv", cache, embedding)
            sketch.add("shortconv.in_proj", embedding, 3 * embedding)
            sketch.add("shortconv.out_proj", embedding, embedding)
        sketch.feed_forward(feed_forward)
    return sketch


def granite_hybrid(
    layers: int = 6,
    embedding: int = 256,
    heads: int = 4,
    heads_kv: int = 2,
    feed_forward: int = 192,
    experts: int = 8,
    experts_used: int = 2,
    shared_width: int = 320,
    state: int = 64,
    state_heads: int = 8,
    groups: int = 1,
    period: int = 3,
    offset: int = 2,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Granite 4: one attention layer to `period` - 1 of Mamba 2, experts with a shared one; tied. An array of heads."""
    sketch = base("granitehybrid", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward)
    attends = [layer % period == offset for layer in range(layers)]
    sketch.keys(
        {
            "attention.head_count_kv": per_layer(layers, lambda layer: heads_kv if attends[layer] else 0),
            "expert_count": experts,
            "expert_used_count": experts_used,
            "expert_shared_feed_forward_length": shared_width,
            **_state_keys(4, 2 * embedding, state, state_heads, groups),
        }
    )
    sketch.ends(tied=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        if attends[layer]:
            sketch.attention(heads, heads_kv, embedding // heads)
        else:
            sketch.mamba2(2 * embedding, state, state_heads, groups, 4)
        sketch.experts(experts, feed_forward)
        sketch.feed_forward(shared_width, suffix="_shexp")
    return sketch


def nemotron_h(
    layers: int = 6,
    embedding: int = 320,
    heads: int = 5,
    heads_kv: int = 1,
    head_size: int = 64,
    feed_forward: int = 960,
    inner: int = 640,
    state: int = 64,
    state_heads: int = 10,
    groups: int = 2,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Nemotron H: each layer is Mamba 2, attention or feed-forward alone. Arrays of heads and widths."""
    sketch = base("nemotron_h", layers, embedding, vocabulary, context, heads, heads_kv, 0, head_size)
    parts = ["mamba", "feed_forward", "attention"]
    sketch.keys(
        {
            "attention.head_count_kv": per_layer(layers, lambda layer: heads_kv if layer % 3 == 2 else 0),
            "feed_forward_length": per_layer(layers, lambda layer: feed_forward if layer % 3 == 1 else 0),
            "attention.layer_norm_epsilon": EPSILON,
            "rope.dimension_count": head_size,
            **_state_keys(4, inner, state, state_heads, groups),
        }
    )
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm")
        match parts[layer % 3]:
            case "mamba":
                sketch.mamba2(inner, state, state_heads, groups, 4)
            case "attention":
                sketch.attention(heads, heads_kv, head_size)
            case _:
                sketch.feed_forward(feed_forward, gated=False)
    return sketch
