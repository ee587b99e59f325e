"""Encoders: all tokens see each other, nothing is cached, and the answer is a vector or a score."""

from tests.architectures.sketch import Sketch
from tests.architectures.transformers import EPSILON

MEAN, CLS, RANK = 1, 2, 4  # llama.cpp's pooling types


def _base(
    architecture: str,
    layers: int,
    embedding: int,
    heads: int,
    feed_forward: int,
    vocabulary: int,
    context: int,
    pooling: int,
) -> Sketch:
    sketch = Sketch(architecture, embedding, vocabulary)
    sketch.metadata["tokenizer.ggml.token_type_count"] = 2
    sketch.keys(
        {
            "block_count": layers,
            "context_length": context,
            "embedding_length": embedding,
            "feed_forward_length": feed_forward,
            "attention.head_count": heads,
            "attention.layer_norm_epsilon": EPSILON,
            "attention.causal": False,
            "pooling_type": pooling,
        }
    )
    sketch.add("token_embd", embedding, vocabulary)
    return sketch


def bert(
    layers: int = 4,
    embedding: int = 384,
    heads: int = 6,
    feed_forward: int = 1536,
    vocabulary: int = 4096,
    context: int = 512,
    reranker: bool = False,
) -> Sketch:
    """BERT, as BGE and E5 are; `reranker`: with a classifier of one label."""
    sketch = _base("bert", layers, embedding, heads, feed_forward, vocabulary, context, RANK if reranker else CLS)
    sketch.add("token_types", embedding, 2)
    sketch.add("position_embd", embedding, context)
    sketch.norms("token_embd_norm", bias=True)
    if reranker:
        sketch.add("cls", embedding, embedding)
        sketch.add("cls.bias", embedding)
        sketch.add("cls.output", embedding, 1)
        sketch.add("cls.output.bias", 1)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.attention(heads, heads, embedding // heads, bias="qkvo")
        sketch.norms("attn_output_norm", "layer_output_norm", bias=True)
        sketch.feed_forward(feed_forward, gated=False, bias=True)
    return sketch


def nomic_bert(
    layers: int = 4,
    embedding: int = 384,
    heads: int = 6,
    feed_forward: int = 1024,
    vocabulary: int = 4096,
    context: int = 2048,
) -> Sketch:
    """nomic-embed-text: rotary positions, a gated feed-forward part, one matrix for queries, keys and values."""
    sketch = _base("nomic-bert", layers, embedding, heads, feed_forward, vocabulary, context, MEAN)
    sketch.keys({"rope.freq_base": 1000.0})
    sketch.add("token_types", embedding, 2)
    sketch.norms("token_embd_norm", bias=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.fused_attention(heads, heads, embedding // heads)
        sketch.norms("attn_output_norm", "layer_output_norm", bias=True)
        sketch.feed_forward(feed_forward)
    return sketch


def modern_bert(
    layers: int = 6,
    embedding: int = 384,
    heads: int = 6,
    feed_forward: int = 576,
    vocabulary: int = 4096,
    context: int = 4096,
    window: int = 128,
) -> Sketch:
    """ModernBERT: two windowed layers to a full one, which comes first."""
    sketch = _base("modern-bert", layers, embedding, heads, feed_forward, vocabulary, context, MEAN)
    sketch.keys({"attention.sliding_window": window, "rope.freq_base": 160_000.0})
    sketch.norms("token_embd_norm", "output_norm")
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.norms("attn_norm", "ffn_norm")
        sketch.fused_attention(heads, heads, embedding // heads)
        sketch.feed_forward(feed_forward, fused=True)
    return sketch


def jina_bert_v2(
    layers: int = 4,
    embedding: int = 384,
    heads: int = 6,
    feed_forward: int = 1024,
    vocabulary: int = 4096,
    context: int = 4096,
) -> Sketch:
    """jina-embeddings-v2: positions by bias (ALiBi)."""
    sketch = _base("jina-bert-v2", layers, embedding, heads, feed_forward, vocabulary, context, MEAN)
    sketch.add("token_types", embedding, 2)
    sketch.norms("token_embd_norm", bias=True)
    for layer in range(layers):
        sketch.block = f"blk.{layer}."
        sketch.attention(heads, heads, embedding // heads, bias="qkvo")
        sketch.norms("attn_output_norm", "layer_output_norm", bias=True)
        sketch.feed_forward(feed_forward)
        sketch.add("ffn_down.bias", embedding)
    return sketch
