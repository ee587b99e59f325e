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
    """One repeating block (layer)."""

    weights: Bytes = (
        0  # all tensors named blk.N.*, as a CPU's buffer aligns them; 0 where the engine does not load them
    )
    padding: Bytes = 0  # what a GPU's buffer takes beyond: its alignment, and quantised rows filled up
    key_width: int = Field(default=0, ge=0)  # elements of a cell's keys, all heads together; 0: it keeps none
    value_width: int = Field(default=0, ge=0)  # elements of a cell's values
    windowed: bool = False  # keeps the sliding window's cells only
    state: Bytes = 0  # of recurrent layers: what is kept of one slot, however long its context
    heads: int = Field(default=0, ge=0)  # attention heads
    query_width: int = Field(default=0, ge=0)  # elements of a token's queries, all heads together
    experts_used: int = Field(default=0, ge=0)  # of a mixture: experts that a token is sent to
    feed_forward: int = Field(default=0, ge=0)  # elements a token, alive at the widest moment of that part
    attention: int = Field(default=0, ge=0)
    mixing: int = Field(default=0, ge=0)  # of the recurrent part
    handed_on: int = Field(default=0, ge=0)  # elements a token: to a device whose first layer is recurrent too
    taken_in: int = Field(default=0, ge=0)  # elements a token: from a device whose last layer is recurrent too

    @property
    def attends(self) -> bool:
        """Whether it computes attention over a cache."""
        return self.key_width > 0


class ModelProfile(Value):
    """What is known of a model from its header(s) alone; small enough for a Temporal payload whatever the model.

    `unsupported` names why the model cannot be served (empty: it can), `caution` why its memory is estimated from
    what any layer could take and not from what these take (empty: the formulae know its architecture).
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
    windowed_key_length: int = Field(default=0, ge=0)  # of layers with a sliding window
    windowed_value_length: int = Field(default=0, ge=0)
    vocabulary: int = Field(ge=0)
    layers: tuple[LayerShape, ...]
    sliding_window: int = Field(default=0, ge=0)  # cells that a windowed layer attends to
    input_weights: Bytes  # token embeddings and the like: they stay on the host
    output_weights: Bytes  # output norm and head: they follow the last layer's device
    output_padding: Bytes = 0  # of them, and of the token embeddings where they are the output too: as LayerShape's
    shared_weights: Bytes = 0  # rope factors: every device with a layer gets a copy
    unused_weights: Bytes = 0  # blocks for multi-token prediction: in the file, and not loaded
    predicting: int = Field(default=0, ge=0)  # how many of the layers, the last ones, are for multi-token prediction
    tied_weights: Bytes = 0  # no output head of its own: the token embeddings are stored a second time beside it
    encoder: bool = False  # reads all tokens at once and keeps no cache
    no_flash_attention: bool = False  # the engine switches it off for this architecture
    whole_last_layer: bool = False  # computes all tokens to its end, not the rows alone that are answered
    whole_output: bool = False  # so does its output layer
    padded_values: bool = False  # without flash attention, layers without heads have values in the cache too
    positioned: bool = False  # adds embeddings of positions to those of tokens
    caching_layers: int = Field(
        default=0, ge=0
    )  # the later ones read the caches of the last two of these; 0: none does
    per_layer_embedding: int = Field(default=0, ge=0)  # elements a token and layer: embeddings that each layer has
    streams: int = Field(default=1, ge=1)  # rows of the residual stream that go from layer to layer
    indexed: bool = False  # chooses the cells that it attends to by scores of their own
    has_chat_template: bool = False
    pooling: bool = False  # its header says how it pools: it answers embeddings, or scores
    caution: str = ""
    unsupported: str = ""

    @property
    def block_count(self) -> int:
        """Number of repeating layers, those for multi-token prediction included, as llama.cpp counts them."""
        return len(self.layers)

    @property
    def trunk(self) -> int:
        """Number of layers that every token goes through: all but those for multi-token prediction."""
        return len(self.layers) - self.predicting


class ProjectorProfile(Value):
    """A multimodal projector (mmproj): the encoder of images or sounds that stands beside a model."""

    name: str = ""
    weights: Bytes
    padding: Bytes = 0  # as LayerShape's
    patches: int = Field(default=0, ge=0)  # of the largest picture that it encodes at once; positions, of sound
    pixels: int = Field(default=0, ge=0)  # of that picture
    embedding_length: int = Field(default=0, ge=0)
    feed_forward: int = Field(default=0, ge=0)
    gated: bool = False  # its feed-forward part multiplies two projections
    heads: int = Field(default=0, ge=0)
