"""Headers for tests: metadata and tensors as describe() gets them."""

from math import prod
from typing import Any

from stoker.domain.architectures.describe import describe
from stoker.domain.gguf import LayerShape, MetadataArray, MetadataValue, ModelProfile, TensorInfo

SIZES = {"F32": (1, 4), "F16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18)}  # elements and bytes of a block


def metadata(architecture: str = "llama", **numbers: Any) -> dict[str, MetadataValue]:
    """What a model of two layers says. Keys are given without the architecture, `__` stands for a dot; None: left out.

    A tuple or list becomes an array.
    """
    values = {
        "block_count": 2,
        "context_length": 4096,
        "embedding_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    } | {name.replace("__", "."): value for name, value in numbers.items()}
    return {"general.architecture": architecture} | {
        f"{architecture}.{key}": array(value) if isinstance(value, list | tuple) else value
        for key, value in values.items()
        if value is not None
    }


def array(items: list[Any] | tuple[Any, ...]) -> MetadataArray:
    return MetadataArray(len(items), tuple(items))


def tensor(name: str, *shape: int, kind: str = "F16") -> TensorInfo:
    elements, size = SIZES[kind]
    return TensorInfo(name=name, shape=shape, type=kind, offset=0, size=prod(shape) * size // elements)


def layers(count: int) -> list[TensorInfo]:
    """A matrix of 32,768 bytes in each of `count` layers."""
    return [tensor(f"blk.{index}.ffn_up.weight", 64, 256) for index in range(count)]


def profile_of(architecture: str, layer_count: int, **numbers: Any) -> ModelProfile:
    """The profile of a header with these numbers, whose layers have one matrix each."""
    return describe(metadata(architecture, block_count=layer_count, **numbers), layers(layer_count))


def windowed(profile: ModelProfile) -> list[int]:
    """Which layers have a sliding window."""
    return [index for index, layer in enumerate(profile.layers) if layer.windowed]


def attending(profile: ModelProfile) -> list[int]:
    """Which layers have a cache of keys."""
    return [index for index, layer in enumerate(profile.layers) if layer.attends]


def recurrent(profile: ModelProfile) -> list[int]:
    """Which layers keep a state."""
    return [index for index, layer in enumerate(profile.layers) if layer.state]


def widths(layer: LayerShape) -> tuple[int, int]:
    """Elements of a cell's keys and of its values."""
    return layer.key_width, layer.value_width
