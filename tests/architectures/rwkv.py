"""RWKV: linear attention with a matrix-valued state, and a mix of neighbouring tokens."""

from tests.architectures.sketch import Sketch
from tests.architectures.transformers import EPSILON


def _base(
    architecture: str, layers: int, embedding: int, feed_forward: int, head_size: int, vocabulary: int, context: int
) -> Sketch:
    sketch = Sketch(architecture, embedding, vocabulary)
    sketch.keys(
        {
            "block_count": layers,
            "context_length": context,
            "embedding_length": embedding,
            "feed_forward_length": feed_forward,
            "attention.head_count": 0,
            "attention.layer_norm_epsilon": EPSILON,
            "wkv.head_size": head_size,
        }
    )
    sketch.ends(tied=False, bias=True)
    sketch.norms("token_embd_norm", bias=True)
    return sketch


def rwkv6(
    layers: int = 3,
    embedding: int = 320,
    feed_forward: int = 1120,
    head_size: int = 64,
    mix: int = 32,
    decay: int = 64,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """RWKV 6 "Finch"."""
    sketch = _base("rwkv6", layers, embedding, feed_forward, head_size, vocabulary, context)
    sketch.keys({"time_mix_extra_dim": mix, "time_decay_extra_dim": decay})
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "attn_norm_2", "time_mix_ln", bias=True)
        sketch.add("time_mix_w1", embedding, 5 * mix)
        sketch.add("time_mix_w2", mix, embedding, 5)
        sketch.add("time_mix_lerp_x", embedding, 1, 1)
        sketch.add("time_mix_lerp_fused", embedding, 1, 1, 5)
        sketch.add("time_mix_first", head_size, embedding // head_size)
        sketch.add("time_mix_decay", embedding)
        sketch.add("time_mix_decay_w1", embedding, decay)
        sketch.add("time_mix_decay_w2", decay, embedding)
        for part in ("key", "value", "receptance", "gate", "output"):
            sketch.add(f"time_mix_{part}", embedding, embedding)
        sketch.add("channel_mix_lerp_k", embedding, 1, 1)
        sketch.add("channel_mix_lerp_r", embedding, 1, 1)
        sketch.add("channel_mix_key", embedding, feed_forward)
        sketch.add("channel_mix_value", feed_forward, embedding)
        sketch.add("channel_mix_receptance", embedding, embedding)
    return sketch


def rwkv7(
    layers: int = 3,
    embedding: int = 320,
    feed_forward: int = 1280,
    head_size: int = 64,
    decay: int = 64,
    rate: int = 64,
    residual: int = 32,
    gate: int = 96,
    vocabulary: int = 4096,
    context: int = 8192,
) -> Sketch:
    """RWKV 7 "Goose"."""
    sketch = _base("rwkv7", layers, embedding, feed_forward, head_size, vocabulary, context)
    sketch.keys(
        {
            "attention.decay_lora_rank": decay,
            "attention.iclr_lora_rank": rate,
            "attention.value_residual_mix_lora_rank": residual,
            "attention.gate_lora_rank": gate,
        }
    )
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "attn_norm_2", "time_mix_ln", bias=True)
        for part, rank in (("w", decay), ("a", rate), ("v", residual if layer else rate)):
            sketch.add(f"time_mix_{part}0", embedding)
            sketch.add(f"time_mix_{part}1", embedding, rank)
            sketch.add(f"time_mix_{part}2", rank, embedding)
        sketch.add("time_mix_g1", embedding, gate)
        sketch.add("time_mix_g2", gate, embedding)
        sketch.add("time_mix_lerp_fused", embedding, 1, 1, 6)
        sketch.norms("time_mix_k_k", "time_mix_k_a", "time_mix_r_k")
        for part in ("key", "value", "receptance", "output"):
            sketch.add(f"time_mix_{part}", embedding, embedding)
        sketch.add("channel_mix_lerp_k", embedding, 1, 1)
        sketch.add("channel_mix_key", embedding, feed_forward)
        sketch.add("channel_mix_value", feed_forward, embedding)
    return sketch
