"""Decoders whose feed-forward parts are mixtures of experts."""

from tests.architectures.sketch import Sketch
from tests.architectures.transformers import base


def qwen3moe(
    layers: int = 4,
    embedding: int = 320,
    heads: int = 8,
    heads_kv: int = 2,
    head_size: int = 64,
    experts: int = 16,
    experts_used: int = 4,
    expert_width: int = 160,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Qwen 3 mixtures: no shared expert."""
    sketch = base("qwen3moe", layers, embedding, vocabulary, context, heads, heads_kv, 3 * embedding, head_size)
    _expert_keys(sketch, experts, experts_used, expert_width)
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.attention(heads, heads_kv, head_size, norms=True)
        sketch.experts(experts, expert_width)
    return sketch


def qwen2moe(
    layers: int = 4,
    embedding: int = 384,
    heads: int = 6,
    heads_kv: int = 6,
    experts: int = 12,
    experts_used: int = 4,
    expert_width: int = 256,
    shared_width: int = 896,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """Qwen 1.5 and 2 mixtures: one shared expert behind a gate."""
    sketch = base("qwen2moe", layers, embedding, vocabulary, context, heads, heads_kv, shared_width)
    _expert_keys(sketch, experts, experts_used, expert_width)
    sketch.keys({"expert_shared_feed_forward_length": shared_width})
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.attention(heads, heads_kv, embedding // heads, bias="qkv")
        sketch.experts(experts, expert_width)
        sketch.add("ffn_gate_inp_shexp", embedding)
        sketch.feed_forward(shared_width, suffix="_shexp")
    return sketch


def gpt_oss(
    layers: int = 4,
    embedding: int = 320,
    heads: int = 8,
    heads_kv: int = 2,
    head_size: int = 64,
    experts: int = 8,
    experts_used: int = 4,
    expert_width: int = 320,
    vocabulary: int = 6144,
    context: int = 8192,
    window: int = 128,
) -> Sketch:
    """gpt-oss: attention sinks, biases everywhere, every other layer windowed."""
    sketch = base("gpt-oss", layers, embedding, vocabulary, context, heads, heads_kv, 0, head_size)
    _expert_keys(sketch, experts, experts_used, expert_width)
    sketch.keys({"attention.sliding_window": window, "rope.dimension_count": head_size})
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "post_attention_norm")
        sketch.attention(heads, heads_kv, head_size, bias="qkvo")
        sketch.add("attn_sinks", heads)
        sketch.experts(experts, expert_width, bias=True)
    return sketch


def deepseek2(
    layers: int = 4,
    embedding: int = 384,
    heads: int = 4,
    query_rank: int = 192,
    kv_rank: int = 128,
    rope: int = 32,
    key: int = 96,
    value: int = 64,
    dense_layers: int = 1,
    feed_forward: int = 1536,
    experts: int = 16,
    experts_used: int = 4,
    expert_width: int = 192,
    shared: int = 1,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """DeepSeek V3, R1 and Kimi K2: latent attention, first layers dense, shared experts."""
    sketch = base("deepseek2", layers, embedding, vocabulary, context, heads, 1, feed_forward)
    _expert_keys(sketch, experts, experts_used, expert_width)
    sketch.keys(
        {
            "expert_shared_count": shared,
            "expert_gating_func": 2,
            "leading_dense_block_count": dense_layers,
            "attention.q_lora_rank": query_rank,
            "attention.kv_lora_rank": kv_rank,
            "attention.key_length": kv_rank + rope,
            "attention.value_length": kv_rank,
            "attention.key_length_mla": key,
            "attention.value_length_mla": value,
            "rope.dimension_count": rope,
        }
    )
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.add("attn_q_a", embedding, query_rank)
        sketch.add("attn_q_a_norm", query_rank)
        sketch.add("attn_q_b", query_rank, heads * key)
        sketch.add("attn_kv_a_mqa", embedding, kv_rank + rope)
        sketch.add("attn_kv_a_norm", kv_rank)
        sketch.add("attn_k_b", key - rope, kv_rank, heads)
        sketch.add("attn_v_b", kv_rank, value, heads)
        sketch.add("attn_output", heads * value, embedding)
        if layer < dense_layers:
            sketch.feed_forward(feed_forward)
        else:
            sketch.experts(experts, expert_width, router_bias=True)
            sketch.feed_forward(shared * expert_width, suffix="_shexp")
    return sketch


def glm4moe(
    layers: int = 5,
    embedding: int = 384,
    heads: int = 6,
    heads_kv: int = 2,
    head_size: int = 64,
    dense_layers: int = 1,
    feed_forward: int = 1152,
    experts: int = 8,
    experts_used: int = 2,
    expert_width: int = 192,
    shared: int = 1,
    vocabulary: int = 4096,
    context: int = 8192,
    predicted: int = 1,
    query_norms: bool = False,
) -> Sketch:
    """GLM 4.5: the last `predicted` of its `layers` only predict tokens further on, and are not loaded."""
    sketch = base("glm4moe", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, head_size)
    _expert_keys(sketch, experts, experts_used, expert_width)
    sketch.keys(
        {
            "expert_shared_count": shared,
            "leading_dense_block_count": dense_layers,
            "nextn_predict_layers": predicted,
            "rope.dimension_count": head_size // 2,
        }
    )
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "post_attention_norm")
        sketch.attention(heads, heads_kv, head_size, bias="qkv", norms=query_norms)
        if layer < dense_layers:
            sketch.feed_forward(feed_forward)
        else:
            sketch.experts(experts, expert_width, router_bias=True)
            sketch.feed_forward(shared * expert_width, suffix="_shexp")
        if layer >= layers - predicted:
            sketch.next_token_prediction()
    return sketch


def llama4(
    layers: int = 4,
    embedding: int = 320,
    heads: int = 5,
    heads_kv: int = 1,
    head_size: int = 64,
    feed_forward: int = 1024,
    experts: int = 4,
    expert_width: int = 512,
    step: int = 1,
    vocabulary: int = 4096,
    context: int = 16_384,
) -> Sketch:
    """Llama 4: a routed and a shared expert each `step` layers; three layers chunked to 8192 tokens to a full one."""
    sketch = base("llama4", layers, embedding, vocabulary, context, heads, heads_kv, feed_forward, head_size)
    _expert_keys(sketch, experts, 1, expert_width)
    sketch.keys({"interleave_moe_layer_step": step, "rope.dimension_count": head_size})
    sketch.add("rope_freqs", head_size // 2)
    sketch.ends(tied=False)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.attention(heads, heads_kv, head_size)
        if (layer + 1) % step:
            sketch.feed_forward(feed_forward)
        else:
            sketch.experts(experts, expert_width)
            sketch.feed_forward(expert_width, suffix="_shexp")
    return sketch


def _expert_keys(sketch: Sketch, experts: int, used: int, width: int) -> None:
    sketch.keys({"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": width})
