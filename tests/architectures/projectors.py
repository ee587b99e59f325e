"""Multimodal projectors that llama.cpp loads: an encoder of pictures, and two layers that lead to the model."""

from pathlib import Path

import gguf
import numpy as np


def write_projector(
    path: Path,
    *,
    embedding: int = 256,
    feed_forward: int = 1024,
    heads: int = 4,
    layers: int = 2,
    image: int = 336,
    patch: int = 14,
    projection: int = 384,
) -> Path:
    """Writes a projector as LLaVA has it, all zeros, for a model whose embedding_length is `projection`."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    writer.add_string("clip.projector_type", "mlp")
    numbers = {
        "image_size": image,
        "patch_size": patch,
        "embedding_length": embedding,
        "feed_forward_length": feed_forward,
        "block_count": layers,
        "projection_dim": projection,
        "attention.head_count": heads,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, np.zeros(shape, dtype=np.float16 if len(shape) > 1 else np.float32))

    def layer(name: str, outputs: int, inputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        add(f"{name}.weight", embedding)
        add(f"{name}.bias", embedding)

    add("v.patch_embd.weight", embedding, 3, patch, patch)
    add("v.position_embd.weight", (image // patch) ** 2 + 1, embedding)
    add("v.class_embd", embedding)
    norm("v.pre_ln")
    for index in range(layers):
        block = f"v.blk.{index}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            layer(f"{block}.{part}", embedding, embedding)
        norm(f"{block}.ln1")
        norm(f"{block}.ln2")
        layer(f"{block}.ffn_up", feed_forward, embedding)
        layer(f"{block}.ffn_down", embedding, feed_forward)
    layer("mm.0", projection, embedding)
    layer("mm.2", projection, projection)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
