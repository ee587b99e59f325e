"""A model as its GGUF header describes it: the few numbers that memory and placement depend on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from stoker.domain.base import Bytes, Value


@dataclass(frozen=True, slots=True)
class MetadataArray:
    """An array among the metadata. Long ones and arrays of strings keep their length only: `items` is then empty."""

    length: int
    items: tuple[int | float | bool, ...] = ()


MetadataValue = int | float | bool | str | MetadataArray


class TensorInfo(NamedTuple):
    """One tensor as the header lists it."""

    name: str
    shape: tuple[int, ...]  # elements, the fastest-moving dimension first
    type: str  # ggml's name of the element type: "F16", "Q4_K"
    offset: Bytes  # from the start of the file's tensor data
    size: Bytes

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before a GGUF file's tensor data."""

    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    data_offset: int  # where the tensor data starts in the file


class LayerShape(Value):
    """One repeating block (layer). Sizes in elements, weights in bytes."""

    weights: Bytes  # all tensors named blk.N.*
    heads_kv: int = Field(ge=0)  # 0: this layer keeps no K and V
    feed_forward: int = Field(ge=0)


class ModelProfile(Value):
    """What is known of a model from its header(s) alone; small enough for a Temporal payload whatever the model.

    `unsupported` names why the memory of this model cannot be worked out yet (empty: it can).
    """

    architecture: str
    name: str = ""
    file_type: str = ""  # "Q4_1"
    parameters: int = 0
    context_length: int = Field(ge=0)  # tokens the model was trained for
    embedding_length: int = Field(ge=0)
    head_count: int = Field(ge=0)
    key_length: int = Field(ge=0)
    value_length: int = Field(ge=0)
    vocabulary: int = Field(ge=0)
    layers: tuple[LayerShape, ...]
    gated: bool = True  # the feed-forward part multiplies two projections (SwiGLU and the like)
    input_weights: Bytes  # token embeddings and the like: they stay on the host
    output_weights: Bytes  # output norm and head: they follow the last layer's device
    tied_output: bool = False  # no output head of its own: the token embeddings are stored a second time beside it
    has_chat_template: bool = False
    pooling: bool = False  # an encoder that answers embeddings only
    unsupported: str = ""

    @property
    def block_count(self) -> int:
        """Number of repeating layers."""
        return len(self.layers)
