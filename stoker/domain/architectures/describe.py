"""The profile of a model: what its header says, as far as memory and placement depend on it."""

import re
from collections.abc import Mapping, Sequence

from stoker.domain.architectures import families
from stoker.domain.architectures.activations import Shape, Widths, widths
from stoker.domain.architectures.keys import MAX_NUMBER, Keys
from stoker.domain.architectures.layers import Heads, caching_layers, memory_of_layers, sliding_window
from stoker.domain.architectures.sizes import size_in_ram, size_of_gpu_padding
from stoker.domain.gguf import LayerShape, MetadataArray, MetadataValue, ModelProfile, TensorInfo

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_CONTEXT = 2**31 - 1  # tokens
_LAYER_TENSOR = re.compile(r"blk\.([0-9]{1,4})\.(.+)")
# Where llama.cpp puts what belongs to no block (llama-arch.cpp, LLM_TENSOR_INFOS); the rest follows the output.
_INPUT = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd|masked_embd_\w+)\.")
_FIRST_LAYER = re.compile(r"(token_embd_norm|per_layer_model_proj|per_layer_proj_norm)\.")
_EVERY_DEVICE = re.compile(r"(rope_freqs|rope_factors_long|rope_factors_short)\.")


def describe(metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorInfo], file_type: str = "") -> ModelProfile:
    """The profile of a model with `metadata` (of its first file) and `tensors` (of all its files).

    Raises ValueError, naming the key, when what the profile is made of is missing or out of bounds.
    """
    keys = Keys(metadata)
    unsupported = families.NOT_SERVED.get(keys.architecture, "")
    _check_shapes(tensors)
    block_count = keys.number("block_count", None, maximum=MAX_LAYERS)
    embedding_length = keys.number("embedding_length", 0 if unsupported else None)
    heads = Heads.of(keys, block_count, embedding_length)
    parts = _Parts(tensors, block_count, keys.architecture)
    predicting = keys.number("nextn_predict_layers")
    if not unsupported and predicting >= block_count:
        raise ValueError(f"{keys.architecture}.block_count is {block_count}, {predicting} of them for prediction only")
    encoder = keys.architecture in families.ENCODERS
    embeddings = [tensor for tensor in parts.input if tensor.name == "token_embd.weight"]
    untied = encoder and keys.architecture not in families.TIED_ENCODERS
    tied = [] if untied or "output.weight" in parts.names else embeddings
    cached = caching_layers(keys, block_count)
    whole = keys.architecture in families.WHOLE_LAST_LAYER or keys.architecture not in families.KNOWN
    return ModelProfile(
        architecture=keys.architecture,
        name=_printable(metadata.get("general.name")),
        file_type=file_type,
        parameters=sum(tensor.elements for tensor in tensors),
        context_length=keys.number("context_length", 0 if unsupported else None, maximum=MAX_CONTEXT),
        embedding_length=embedding_length,
        head_count=max(heads.query, default=0),
        key_length=heads.key_length,
        value_length=heads.value_length,
        windowed_key_length=heads.windowed_key_length,
        windowed_value_length=heads.windowed_value_length,
        vocabulary=_vocabulary(keys, parts.shapes),
        layers=() if unsupported else _layers(keys, heads, parts, block_count, predicting, embedding_length),
        sliding_window=sliding_window(keys, block_count - predicting),
        input_weights=size_in_ram(parts.input),
        output_weights=size_in_ram(parts.output),
        output_padding=size_of_gpu_padding([*parts.output, *tied]),
        shared_weights=size_in_ram(parts.every_device),
        predicting=0 if unsupported else predicting,
        unused_weights=_unused(keys, parts, block_count, predicting),
        tied_weights=size_in_ram(tied),
        encoder=encoder,
        no_flash_attention=keys.architecture in families.NO_FLASH_ATTENTION,
        whole_last_layer=whole,
        whole_output=whole and keys.architecture not in families.CUT_BEFORE_OUTPUT,
        padded_values=keys.architecture in families.PADDED_VALUES,
        positioned="position_embd.weight" in parts.names,
        caching_layers=cached if cached < block_count else 0,
        per_layer_embedding=keys.number(
            "embedding_length_per_layer_input", families.PER_LAYER.get(keys.architecture, 0)
        ),
        streams=families.STREAMS.get(keys.architecture, 1),
        indexed=keys.has("attention.indexer.key_length"),
        has_chat_template=_is_filled(metadata.get("tokenizer.chat_template")),
        pooling=keys.number("pooling_type") != 0,
        caution=_caution(keys),
        unsupported=unsupported and f"{keys.architecture} is {unsupported}",
    )


class _Parts:
    """A model's tensors by where the engine puts them."""

    def __init__(self, tensors: Sequence[TensorInfo], block_count: int, architecture: str) -> None:
        self.names = {tensor.name for tensor in tensors}
        self.shapes = {tensor.name: tensor.shape for tensor in tensors if not tensor.name.startswith("blk.")}
        self.layers: list[list[TensorInfo]] = [[] for _ in range(block_count)]
        self.layer_shapes: list[dict[str, Shape]] = [{} for _ in range(block_count)]
        self.input: list[TensorInfo] = []
        self.output: list[TensorInfo] = []
        self.every_device: list[TensorInfo] = []
        for tensor in tensors:
            self._sort(tensor, block_count, architecture)

    def _sort(self, tensor: TensorInfo, block_count: int, architecture: str) -> None:
        if (match := _LAYER_TENSOR.match(tensor.name)) is not None:
            if (layer := int(match[1])) >= block_count:
                raise ValueError(f"tensor {tensor.name} is of layer {layer}, and block_count is {block_count}")
            self.layers[layer].append(tensor)
            self.layer_shapes[layer][match[2]] = tensor.shape
        elif _INPUT.match(tensor.name):
            self.input.append(tensor)
        elif _EVERY_DEVICE.match(tensor.name):
            self.every_device.append(tensor)
        elif _FIRST_LAYER.match(tensor.name) and self.layers and not architecture.startswith("lfm2"):
            self.layers[0].append(tensor)  # lfm2: its output norm bears that name
        else:
            self.output.append(tensor)


def _layers(
    keys: Keys, heads: Heads, parts: _Parts, block_count: int, predicting: int, embedding_length: int
) -> tuple[LayerShape, ...]:
    used = keys.per_layer("expert_used_count", block_count)
    kept = memory_of_layers(keys, heads, block_count, predicting)
    found = []
    for index in range(block_count):
        memory = kept[index]
        if index >= block_count - predicting:
            loaded = _loaded_prediction(keys.architecture, parts.layers[index])
            found.append(
                LayerShape(
                    weights=size_in_ram(loaded),
                    padding=size_of_gpu_padding(loaded),
                    key_width=memory.key_width,
                    value_width=memory.value_width,
                )
            )
            continue
        if not parts.layers[index]:
            raise ValueError(f"layer {index} of {block_count} has no tensors")
        width = widths(
            parts.layer_shapes[index],
            embedding_length=embedding_length,
            query_width=heads.query[index] * heads.key_length if memory.key_width else 0,
            experts_used=used[index],
        )
        found.append(
            LayerShape(
                weights=size_in_ram(parts.layers[index]),
                padding=size_of_gpu_padding(parts.layers[index]),
                key_width=memory.key_width,
                value_width=memory.value_width,
                windowed=memory.windowed,
                state=memory.state,
                heads=heads.query[index],
                query_width=width.query,
                feed_forward=width.feed_forward,
                attention=width.attention,
                mixing=width.mixing,
                handed_on=width.handed_on if keys.architecture in families.CARRYING else 0,
                taken_in=_taken_in(keys, width, embedding_length),
                experts_used=used[index],
            )
        )
    return tuple(found)


def _taken_in(keys: Keys, width: Widths, embedding_length: int) -> int:
    if keys.architecture in families.UNNORMED:
        return embedding_length
    return width.taken_in if keys.architecture in families.CARRYING else 0


def _loaded_prediction(architecture: str, tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
    """What the engine loads of a block for prediction."""
    if (names := families.LOADED_PREDICTION.get(architecture)) is None:
        return []
    return [tensor for tensor in tensors if names.match(tensor.name.split(".", 2)[2])]


def _unused(keys: Keys, parts: _Parts, block_count: int, predicting: int) -> int:
    """Bytes of the blocks for prediction that stay in the file."""
    blocks = parts.layers[max(0, block_count - predicting) :] if predicting else []
    return sum(size_in_ram(block) - size_in_ram(_loaded_prediction(keys.architecture, block)) for block in blocks)


def _check_shapes(tensors: Sequence[TensorInfo]) -> None:
    for tensor in tensors:
        if not tensor.shape or min(tensor.shape) < 1:
            raise ValueError(f"tensor {tensor.name} has the shape {tensor.shape}: every length must be at least 1")


def _caution(keys: Keys) -> str:
    if keys.architecture in families.KNOWN:
        return ""
    return (
        f"the architecture {keys.architecture} is not known to Stoker: every layer is taken to keep keys and values of "
        "the whole context, and the estimate may be too high"
    )


def _vocabulary(keys: Keys, shapes: Mapping[str, Shape]) -> int:
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    rows = shapes["token_embd.weight"][-1] if "token_embd.weight" in shapes else 0
    size = tokens.length if isinstance(tokens, MetadataArray) else keys.number("vocab_size", rows)
    if size > MAX_NUMBER:
        raise ValueError(f"the vocabulary has {size} words: at most {MAX_NUMBER} make sense")
    return size


def _printable(name: MetadataValue | None) -> str:
    return "".join(letter for letter in name if letter.isprintable())[:128] if isinstance(name, str) else ""


def _is_filled(text: MetadataValue | None) -> bool:
    """Whether there is a text; one too long to be kept has a length only."""
    return bool(text.length if isinstance(text, MetadataArray) else text)
