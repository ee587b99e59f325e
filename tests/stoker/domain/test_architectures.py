"""What is read out of metadata and tensors, and which models are refused by name."""

from typing import Any

import pytest

from stoker.domain.architectures import DENSE, ENCODERS, RECURRENT, SLIDING_WINDOW, describe
from stoker.domain.gguf import LayerShape, MetadataArray, MetadataValue, ModelProfile, TensorInfo


def metadata(architecture: str = "llama", **numbers: Any) -> dict[str, MetadataValue]:
    """What a dense model of two layers says; keys are given without the architecture, `__` stands for a dot."""
    values = {
        "block_count": 2,
        "context_length": 4096,
        "embedding_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "feed_forward_length": 256,
    } | {name.replace("__", "."): value for name, value in numbers.items()}
    return {"general.architecture": architecture} | {
        f"{architecture}.{key}": value for key, value in values.items() if value is not None
    }


def tensor(name: str, *shape: int) -> TensorInfo:
    size = 2
    for length in shape:
        size *= length
    return TensorInfo(name=name, shape=shape, type="F16", offset=0, size=size)


TENSORS = [
    tensor("token_embd.weight", 64, 1000),
    tensor("output_norm.weight", 64),
    tensor("output.weight", 64, 1000),
    tensor("rope_freqs.weight", 8),
    *(tensor(f"blk.{layer}.ffn_{part}.weight", 64, 256) for layer in (0, 1) for part in ("gate", "up", "down")),
]


def profile(changed: dict[str, MetadataValue], tensors: list[TensorInfo] = TENSORS) -> ModelProfile:
    return describe(changed, tensors)


def test_a_dense_model() -> None:
    assert profile(metadata() | {"general.name": "A\n model", "tokenizer.ggml.tokens": MetadataArray(1000)}) == (
        ModelProfile(
            architecture="llama",
            name="A model",
            parameters=2 * 64_000 + 64 + 8 + 6 * 16_384,
            context_length=4096,
            embedding_length=64,
            head_count=4,
            key_length=16,
            value_length=16,
            vocabulary=1000,
            layers=(LayerShape(weights=3 * 32_768, heads_kv=2, feed_forward=256),) * 2,
            input_weights=128_000,
            output_weights=128_000 + 128 + 16,  # with what is of no layer and not of the input
        )
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"attention__head_count_kv": None}, {"heads_kv": 4}),
        ({"attention__head_count_kv": MetadataArray(2, (1, 1))}, {"heads_kv": 1}),
        ({"feed_forward_length": MetadataArray(2, (300, 300))}, {"feed_forward": 300}),
    ],
)
def test_numbers_of_each_layer(changed: dict[str, Any], expected: dict[str, int]) -> None:
    found = profile(metadata(**changed))
    assert found.unsupported == ""
    assert all(layer.model_copy(update=expected) == layer for layer in found.layers)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"attention__key_length": 128, "attention__value_length": 96}, {"key_length": 128, "value_length": 96}),
        ({"pooling_type": 3}, {"pooling": True}),
        ({"pooling_type": 0}, {"pooling": False}),
        ({"vocab_size": 900}, {"vocabulary": 900}),
        ({}, {"vocabulary": 1000, "tied_output": False, "has_chat_template": False}),
    ],
)
def test_numbers_of_the_model(changed: dict[str, Any], expected: dict[str, Any]) -> None:
    found = profile(metadata(**changed))
    assert found.model_copy(update=expected) == found
    assert found.unsupported == ""


def test_texts() -> None:
    assert profile(metadata() | {"tokenizer.chat_template": "{{ x }}"}).has_chat_template
    assert profile(metadata() | {"tokenizer.chat_template": MetadataArray(2_000_000)}).has_chat_template
    assert not profile(metadata() | {"tokenizer.chat_template": ""}).has_chat_template
    assert profile(metadata() | {"general.name": "x" * 1000}).name == "x" * 128
    assert profile(metadata() | {"general.name": 5}).name == ""


def test_tied_embeddings() -> None:
    assert profile(metadata(), [tensor for tensor in TENSORS if tensor.name != "output.weight"]).tied_output


@pytest.mark.parametrize(
    ("parts", "gated"),
    [
        ({"gate": 256, "up": 256, "down": 256}, True),
        ({"up": 512, "down": 256}, True),  # phi3, chatglm: both projections in one tensor
        ({"up": 256, "down": 256}, False),
    ],
)
def test_gated(parts: dict[str, int], gated: bool) -> None:
    layers = [tensor(f"blk.{layer}.ffn_{part}.weight", 64, width) for layer in (0, 1) for part, width in parts.items()]
    assert profile(metadata(), [*TENSORS[:3], *layers]).gated is gated


@pytest.mark.parametrize("architecture", sorted(DENSE))
def test_dense_architectures_are_supported_with_or_without_a_window_key(architecture: str) -> None:
    assert profile(metadata(architecture)).unsupported == ""
    assert profile(metadata(architecture, attention__sliding_window=2048)).unsupported == ""


def test_the_lists_do_not_overlap() -> None:
    lists = (DENSE, SLIDING_WINDOW, RECURRENT, ENCODERS)
    assert len(frozenset[str]().union(*lists)) == sum(map(len, lists))


@pytest.mark.parametrize(
    ("found", "feature"),
    [
        (metadata(expert_count=8), "mixture of experts"),
        (metadata("qwen3moe", expert_count=128), "mixture of experts"),
        (metadata("mamba", ssm__inner_size=128, attention__head_count=0), "recurrent state"),
        (metadata("lfm2"), "recurrent state"),
        (metadata("novel", wkv__head_size=64), "recurrent state"),
        (metadata("minicpm3", attention__kv_lora_rank=256), "latent attention"),
        (metadata("gemma3"), "sliding-window"),
        (metadata("novel", attention__sliding_window=1024), "sliding-window"),
        (metadata("novel", attention__shared_kv_layers=10), "share a KV cache"),
        (metadata("glm4", nextn_predict_layers=1), "multi-token prediction"),
        (metadata("bert"), "encoder"),
        (metadata("qwen3", pooling_type=4), "reranker"),
        (metadata("novel"), "not known to Stoker"),
        (metadata(attention__head_count=MetadataArray(2, (4, 8))), "differ from each other"),
        (metadata(attention__head_count_kv=MetadataArray(2, (2, 0))), "differ from each other"),
        (metadata(feed_forward_length=MetadataArray(2, (256, 512))), "differ from each other"),
    ],
)
def test_unsupported_is_named(found: dict[str, MetadataValue], feature: str) -> None:
    told = profile(found).unsupported
    assert feature in told
    assert told.startswith(f"{found['general.architecture']}: ")


def test_expert_tensors_tell_even_without_the_key() -> None:
    tensors = [*TENSORS, tensor("blk.0.ffn_up_exps.weight", 64, 256, 8)]
    assert "mixture of experts" in profile(metadata(), tensors).unsupported


def test_an_unsupported_model_may_lack_what_only_formulae_need() -> None:
    found = profile({"general.architecture": "rwkv7", "rwkv7.block_count": 2}, [])
    assert (found.block_count, found.head_count, found.context_length) == (2, 0, 0)
    assert "recurrent state" in found.unsupported


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({}, "general.architecture is 'None'"),
        ({"general.architecture": 7}, "general.architecture is '7'"),
        ({"general.architecture": "a b"}, "general.architecture is 'a b'"),
        ({"general.architecture": "x" * 64}, "must be a name"),
        ({"general.architecture": "clip"}, "a multimodal projector, not a model"),
        (metadata() | {"general.type": "adapter"}, "a LoRA adapter, not a model"),
        (metadata(block_count=None), "llama.block_count is missing"),
        (metadata(block_count=513), "llama.block_count is 513: it must be a number from 0 to 512"),
        (metadata(block_count=-1), "llama.block_count is -1"),
        (metadata(block_count="2"), "llama.block_count is '2'"),
        (metadata(block_count=True), "llama.block_count is True"),
        (metadata(block_count=3), "layer 2 of 3 has no tensors"),
        (metadata(block_count=1), "is of layer 1, and block_count is 1"),
        (metadata(context_length=None), "llama.context_length is missing"),
        (metadata(embedding_length=2**31), "llama.embedding_length is 2147483648"),
        (metadata(attention__head_count=None), "llama.attention.head_count is missing"),
        (metadata(attention__head_count=0), "llama.attention.head_count is 0"),
        (metadata(attention__head_count_kv=1.5), "llama.attention.head_count_kv is 1.5"),
        (metadata(attention__head_count_kv=MetadataArray(1, (2,))), "has 1 numbers for 2 layers"),
        (metadata(feed_forward_length=MetadataArray(9999)), "has 9999 numbers for 2 layers"),
        (metadata(feed_forward_length=MetadataArray(2, (1.5, 1.5))), "feed_forward_length is 1.5"),
    ],
)
def test_absurd_headers_are_refused_by_key(found: dict[str, MetadataValue], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        profile(found)
