"""What a GGUF header says of a model, and whether Stoker's memory formulae hold for it.

They hold for dense transformers with a KV cache of full length in each layer. DENSE names the architectures
(`general.architecture`) whose graph and cache were read in llama.cpp's sources and whose buffers were measured. Any
other is named in `ModelProfile.unsupported`: a refusal is better than a place by a wrong number.
"""

import re
from collections.abc import Mapping, Sequence

from stoker.domain.gguf import LayerShape, MetadataArray, MetadataValue, ModelProfile, TensorInfo

# Some of these files have `attention.sliding_window` (phi3, qwen2, mistral as llama). llama.cpp does not act on it for
# these architectures: every layer keeps the whole context.
DENSE = frozenset({
    "arcee", "baichuan", "bloom", "chatglm", "codeshell", "command-r", "ernie4_5", "exaone", "falcon", "gemma",
    "glm4", "gpt2", "gptneox", "granite", "hunyuan-dense", "internlm2", "jais2", "llama", "maincoder", "minicpm",
    "mistral3", "mpt", "nemotron", "olmo", "orion", "pangu-embedded", "phi2", "phi3", "qwen", "qwen2", "qwen2vl",
    "qwen3", "qwen3vl", "seed_oss", "smollm3", "stablelm", "starcoder", "starcoder2", "xverse",
})  # fmt: skip
# Some layers keep a short KV cache only, for most of these by default: no key needs to say so.
SLIDING_WINDOW = frozenset({
    "afmoe", "cohere2", "cohere2moe", "exaone-moe", "gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss",
    "granite_swa", "llama4", "mellum", "mimo2", "plamo3", "smallthinker", "step35",
})  # fmt: skip
RECURRENT = frozenset({
    "arwkv7", "falcon-h1", "granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "mamba", "mamba2",
    "minimax-01", "nemotron_h", "nemotron_h_moe", "plamo2", "qwen35", "qwen35moe", "qwen3next", "rwkv6",
    "rwkv6qwen2", "rwkv7",
})  # fmt: skip
ENCODERS = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder",
})  # fmt: skip

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_NUMBER = 2**31 - 1
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LAYER_TENSOR = re.compile(r"blk\.([0-9]{1,4})\.")
_INPUT_TENSOR = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd)\.")  # these stay on the host
_OTHER_FILES = {"adapter": "a LoRA adapter", "mmproj": "a multimodal projector", "imatrix": "an importance matrix"}
_RANK = 4  # llama.cpp's LLAMA_POOLING_TYPE_RANK: answers scores, not embeddings


def describe(metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorInfo], file_type: str = "") -> ModelProfile:
    """The profile of a model with `metadata` (of its first file) and `tensors` (of all its files).

    Raises ValueError, naming the key, when what the profile is made of is missing or out of bounds.
    """
    keys = _Keys(metadata, _architecture(metadata))
    unsupported = _unsupported_feature(keys, tensors)
    missing = 0 if unsupported else None  # what a formula needs must be there; else it is only shown
    block_count = keys.number("block_count", None, maximum=MAX_LAYERS)
    embedding_length = keys.number("embedding_length", missing)
    heads = keys.per_layer("attention.head_count", block_count, missing)
    heads_kv = keys.per_layer("attention.head_count_kv", block_count, max(heads, default=0))
    feed_forward = keys.per_layer("feed_forward_length", block_count, missing)
    if not unsupported and any(len(set(numbers)) > 1 for numbers in (heads, heads_kv, feed_forward)):
        unsupported = "its layers differ from each other in heads or feed-forward length"
    head_count = max(heads, default=0)
    if not unsupported and head_count == 0:
        raise ValueError(f"{keys.architecture}.attention.head_count is 0")
    head_size = embedding_length // head_count if head_count else 0
    layer_weights = _layer_weights(tensors, block_count)
    if not unsupported and 0 in layer_weights:
        raise ValueError(f"layer {layer_weights.index(0)} of {block_count} has no tensors")
    names = {tensor.name for tensor in tensors}
    input_weights = sum(tensor.size for tensor in tensors if _INPUT_TENSOR.match(tensor.name))
    return ModelProfile(
        architecture=keys.architecture,
        name=_printable(metadata.get("general.name")),
        file_type=file_type,
        parameters=sum(tensor.elements for tensor in tensors),
        context_length=keys.number("context_length", missing),
        embedding_length=embedding_length,
        head_count=head_count,
        key_length=keys.number("attention.key_length", head_size),
        value_length=keys.number("attention.value_length", head_size),
        vocabulary=_vocabulary(keys, tensors),
        layers=tuple(
            LayerShape(weights=weights, heads_kv=kv, feed_forward=width)
            for weights, kv, width in zip(layer_weights, heads_kv, feed_forward, strict=True)
        ),
        gated=_is_gated(tensors, names, max(feed_forward, default=0)),
        input_weights=input_weights,
        output_weights=sum(tensor.size for tensor in tensors) - input_weights - sum(layer_weights),
        tied_output="output.weight" not in names,
        has_chat_template=_is_filled(metadata.get("tokenizer.chat_template")),
        pooling=keys.number("pooling_type", 0) != 0,
        unsupported=unsupported and f"{keys.architecture}: {unsupported}, and its memory cannot be worked out yet",
    )


class _Keys:
    """The architecture's own numbers among the metadata."""

    def __init__(self, metadata: Mapping[str, MetadataValue], architecture: str) -> None:
        self.metadata, self.architecture = metadata, architecture

    def number(self, key: str, default: int | None, maximum: int = MAX_NUMBER) -> int:
        """The number under `key`, of an array the largest; `default` when it is missing, which None forbids."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, MetadataArray):
            return max((self._checked(key, item, maximum) for item in value.items), default=0)
        return self._checked(key, value, maximum)

    def per_layer(self, key: str, layers: int, default: int | None) -> tuple[int, ...]:
        """The number under `key` of each layer; it may be one for all of them."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, MetadataArray):
            return (self._checked(key, value, MAX_NUMBER),) * layers
        if len(value.items) < layers:
            raise ValueError(f"{self.architecture}.{key} has {value.length} numbers for {layers} layers")
        return tuple(self._checked(key, item, MAX_NUMBER) for item in value.items[:layers])

    def has(self, pattern: str) -> bool:
        """Whether a key begins with `pattern`."""
        return any(key.startswith(f"{self.architecture}.{pattern}") for key in self.metadata)

    def _checked(self, key: str, value: MetadataValue | None, maximum: int) -> int:
        if type(value) is not int or not 0 <= value <= maximum:
            told = "missing" if value is None else repr(value)
            raise ValueError(f"{self.architecture}.{key} is {told}: it must be a number from 0 to {maximum}")
        return value


def _architecture(metadata: Mapping[str, MetadataValue]) -> str:
    kind, architecture = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if kind in _OTHER_FILES or architecture == "clip":
        raise ValueError(f"the file is {_OTHER_FILES.get(str(kind), 'a multimodal projector')}, not a model")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise ValueError(f"general.architecture is {str(architecture)[:80]!r}: it must be a name like llama or qwen2")
    return architecture


def _unsupported_feature(keys: _Keys, tensors: Sequence[TensorInfo]) -> str:
    """The first thing about the model that the formulae do not cover, or nothing."""
    dense = keys.architecture in DENSE
    window = keys.number("attention.sliding_window", 0)
    findings = {
        "it is a mixture of experts": keys.number("expert_count", 0) > 1
        or any("_exps." in tensor.name for tensor in tensors),
        "it keeps a recurrent state": keys.architecture in RECURRENT or keys.has("ssm.") or keys.has("wkv."),
        "it uses multi-head latent attention": keys.has("attention.kv_lora_rank"),
        "it uses sliding-window attention": keys.architecture in SLIDING_WINDOW or (window > 0 and not dense),
        "some of its layers share a KV cache": keys.number("attention.shared_kv_layers", 0) > 0,
        "it has layers for multi-token prediction": keys.number("nextn_predict_layers", 0) > 0,
        "it is an encoder": keys.architecture in ENCODERS,
        "it is a reranker": keys.number("pooling_type", 0) == _RANK,
        "its architecture is not known to Stoker": not dense,
    }
    return next((feature for feature, found in findings.items() if found), "")


def _layer_weights(tensors: Sequence[TensorInfo], block_count: int) -> list[int]:
    weights = [0] * block_count
    for tensor in tensors:
        if (match := _LAYER_TENSOR.match(tensor.name)) is not None:
            if (layer := int(match[1])) >= block_count:
                raise ValueError(f"tensor {tensor.name} is of layer {layer}, and block_count is {block_count}")
            weights[layer] += tensor.size
    return weights


def _is_gated(tensors: Sequence[TensorInfo], names: set[str], feed_forward: int) -> bool:
    """Whether the feed-forward part multiplies two projections: as tensors of their own, or both in one `ffn_up`."""
    if "blk.0.ffn_gate.weight" in names:
        return True
    return any(tensor.name == "blk.0.ffn_up.weight" and tensor.shape[-1] > feed_forward for tensor in tensors)


def _vocabulary(keys: _Keys, tensors: Sequence[TensorInfo]) -> int:
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, MetadataArray):
        return tokens.length
    embeddings = next((tensor for tensor in tensors if tensor.name == "token_embd.weight"), None)
    return keys.number("vocab_size", embeddings.shape[-1] if embeddings else 0)


def _printable(name: MetadataValue | None) -> str:
    return "".join(letter for letter in name if letter.isprintable())[:128] if isinstance(name, str) else ""


def _is_filled(text: MetadataValue | None) -> bool:
    """Whether there is a text; one too long to be kept has a length only."""
    return bool(text.length if isinstance(text, MetadataArray) else text)
