"""The profile of a model: numbers by their keys, tensors by where the engine puts them, and hostile headers."""

from typing import Any

import pytest

from stoker.domain.architectures import families
from stoker.domain.architectures.describe import describe
from stoker.domain.gguf import LayerShape, MetadataArray, MetadataValue, ModelProfile, TensorInfo
from tests.stoker.domain.architectures.headers import layers, metadata, profile_of, tensor

TENSORS = [
    tensor("token_embd.weight", 64, 1000),
    tensor("output_norm.weight", 64, kind="F32"),
    tensor("output.weight", 64, 1000),
    *(tensor(f"blk.{layer}.ffn_{part}.weight", 64, 256) for layer in (0, 1) for part in ("gate", "up")),
    *(tensor(f"blk.{layer}.ffn_down.weight", 256, 64) for layer in (0, 1)),
]


def test_a_dense_model() -> None:
    found = metadata() | {"general.name": "A\n model", "tokenizer.ggml.tokens": MetadataArray(1000)}
    layer = LayerShape(weights=3 * 32_768, key_width=32, value_width=32, heads=4, query_width=64)
    layer = layer.model_copy(update={"feed_forward": 3 * 256 + 3 * 64, "attention": 4 * 64})
    assert describe(found, TENSORS, "F16") == ModelProfile(
        architecture="llama",
        name="A model",
        file_type="F16",
        parameters=2 * 64_000 + 64 + 6 * 16_384,
        context_length=4096,
        embedding_length=64,
        head_count=4,
        key_length=16,
        value_length=16,
        windowed_key_length=16,
        windowed_value_length=16,
        vocabulary=1000,
        layers=(layer,) * 2,
        input_weights=128_000,
        output_weights=128_000 + 256,
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"attention__key_length": 128, "attention__value_length": 96}, {"key_length": 128, "value_length": 96}),
        ({"attention__head_count": [4, 8]}, {"head_count": 8}),
        ({"pooling_type": 3}, {"pooling": True}),
        ({"pooling_type": 0}, {"pooling": False}),
        ({"vocab_size": 900}, {"vocabulary": 900}),
        ({}, {"vocabulary": 1000, "tied_weights": 0, "has_chat_template": False, "caution": "", "encoder": False}),
    ],
)
def test_numbers_of_the_model(changed: dict[str, Any], expected: dict[str, Any]) -> None:
    found = describe(metadata(**changed), TENSORS)
    assert found.model_copy(update=expected) == found
    assert found.unsupported == ""


def test_texts() -> None:
    def of(changed: dict[str, MetadataValue]) -> ModelProfile:
        return describe(metadata() | changed, TENSORS)

    assert of({"tokenizer.chat_template": "{{ x }}"}).has_chat_template
    assert of({"tokenizer.chat_template": MetadataArray(2_000_000)}).has_chat_template
    assert not of({"tokenizer.chat_template": ""}).has_chat_template
    assert of({"general.name": "x" * 1000}).name == "x" * 128
    assert of({"general.name": 5}).name == ""


# --- where the engine puts tensors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("position_embd.weight", "input"),
        ("token_types.weight", "input"),
        ("per_layer_token_embd.weight", "input"),  # gemma 3n's, as large as the layers
        ("output_norm.bias", "output"),
        ("cls.output.weight", "output"),  # of rerankers
        ("dense_2.weight", "output"),  # of embeddings
        ("altup_proj.weight", "output"),
        ("novel.weight", "output"),
        ("rope_freqs.weight", "shared"),
        ("rope_factors_long.weight", "shared"),
        ("rope_factors_short.weight", "shared"),
        ("token_embd_norm.weight", "first layer"),  # bloom, bert: "do the norms on the first layer"
        ("token_embd_norm.bias", "first layer"),
        ("per_layer_model_proj.weight", "first layer"),
        ("per_layer_proj_norm.weight", "first layer"),
        ("blk.1.attn_rot_embd", "last layer"),
    ],
)
def test_each_tensor_lies_in_one_place(name: str, place: str) -> None:
    plain, more = describe(metadata(), TENSORS), describe(metadata(), [*TENSORS, tensor(name, 64, 16)])
    added = {
        "input": more.input_weights - plain.input_weights,
        "output": more.output_weights - plain.output_weights,
        "shared": more.shared_weights - plain.shared_weights,
        "first layer": more.layers[0].weights - plain.layers[0].weights,
        "last layer": more.layers[1].weights - plain.layers[1].weights,
    }
    assert {part: size for part, size in added.items() if size} == {place: 2048}


@pytest.mark.parametrize("architecture", ["lfm2", "lfm2moe"])
def test_the_output_norm_of_lfm2_bears_another_name(architecture: str) -> None:
    """LLM_TENSOR_OUTPUT_NORM_LFM2."""
    found = describe(metadata(architecture), [*layers(2), tensor("token_embd_norm.weight", 64, kind="F32")])
    assert (found.output_weights, found.layers[0].weights) == (256, 32_768)


def test_without_an_output_matrix_the_embeddings_are_it() -> None:
    tied = describe(metadata(), [each for each in TENSORS if each.name != "output.weight"])
    assert (tied.tied_weights, tied.input_weights, tied.output_weights) == (128_000, 128_000, 256)
    assert describe(metadata(), TENSORS).tied_weights == 0


def test_an_encoder_has_no_output_matrix_at_all() -> None:
    found = describe(metadata("bert"), [each for each in TENSORS if each.name != "output.weight"])
    assert (found.encoder, found.tied_weights) == (True, 0)


def test_tensors_are_aligned_to_32_bytes() -> None:
    """In a CPU's buffer; a GPU's takes 128."""
    found = describe(metadata(), [*TENSORS, tensor("blk.0.x", 9), tensor("cls.bias", 1)])  # 18 and 2 bytes
    plain = describe(metadata(), TENSORS)
    assert found.layers[0].weights - plain.layers[0].weights == 32
    assert found.output_weights - plain.output_weights == 32
    assert (found.layers[0].padding, plain.layers[0].padding) == (96, 0)


@pytest.mark.parametrize(
    ("rows", "kind", "padding"),
    [
        (4096, "Q8_0", 0),  # whole rows of 512
        (
            4160,
            "Q8_0",
            448 * 34 // 32 + 36,
        ),  # 64 elements beyond whole rows: 448 more, and 36 bytes to a multiple of 128
        (4160, "F16", 0),
        (2880, "Q4_0", 192 * 18 // 32 + 20),  # gpt-oss
    ],
)
def test_cuda_fills_the_last_row_of_a_quantised_matrix(rows: int, kind: str, padding: int) -> None:
    """Once a tensor: ggml_backend_cuda_buffer_type_get_alloc_size."""
    matrix = tensor("blk.0.ffn_up.weight", rows, 64, kind=kind)
    found = describe(metadata(block_count=1), [matrix])
    assert found.layers[0].weights == matrix.size
    assert found.layers[0].padding == padding


def test_the_padding_of_tied_embeddings_is_the_output_layers() -> None:
    tied = describe(metadata(), [tensor("token_embd.weight", 64, 1000, kind="Q8_0"), *layers(2)])
    free = describe(
        metadata(),
        [tensor("token_embd.weight", 64, 1000, kind="Q8_0"), tensor("output.weight", 64, 1000, kind="F16"), *layers(2)],
    )
    assert tied.output_padding == 480  # 448 elements are 476 bytes, and 68,476 is 4 short of a multiple of 128
    assert free.output_padding == 0, "the embeddings stay in RAM"


# --- what is refused, and what is not served ---------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(families.NOT_SERVED.keys() - {"clip"}))
def test_what_llama_server_does_not_serve_says_why(architecture: str) -> None:
    found = describe({"general.architecture": architecture, f"{architecture}.block_count": 2}, [])
    assert found.unsupported == f"{architecture} is {families.NOT_SERVED[architecture]}"
    assert found.layers == ()


@pytest.mark.parametrize("architecture", sorted(families.KNOWN))
def test_what_is_known_is_estimated_without_caution(architecture: str) -> None:
    found = profile_of(architecture, 2)
    assert (found.unsupported, found.caution) == ("", "")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (metadata(block_count=None), "llama.block_count is missing"),
        (metadata(block_count=513), "llama.block_count is 513: it must be a number from "),
        (metadata(block_count=-1), "llama.block_count is -1"),
        (metadata(block_count="2"), "llama.block_count is '2'"),
        (metadata(block_count=True), "llama.block_count is True"),
        (metadata(block_count=3), "layer 2 of 3 has no tensors"),
        (metadata(block_count=1), "is of layer 1, and block_count is 1"),
        (metadata(context_length=None), "llama.context_length is missing"),
        (metadata(embedding_length=2**31), "llama.embedding_length is 2147483648"),
        (metadata(attention__head_count_kv=2**24, attention__key_length=2**24), "larger than any model's"),
        (metadata(block_count=0), "block_count is 0"),
        (metadata(nextn_predict_layers=2), "llama.block_count is 2, 2 of them for prediction only"),
        (metadata(attention__head_count_kv=1.5), "llama.attention.head_count_kv is 1.5"),
        (metadata(attention__head_count_kv=[2]), "has 1 numbers for 2 layers"),
        (metadata(attention__head_count=MetadataArray(9999)), "has 9999 numbers for 2 layers"),
    ],
)
def test_absurd_headers_are_refused_by_key(found: dict[str, MetadataValue], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        describe(found, TENSORS)


def test_a_model_has_layers() -> None:
    with pytest.raises(ValueError, match=r"llama\.block_count is 0"):
        describe(metadata(block_count=0), [])


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0)])
@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight", "blk.0.x.weight"])
@pytest.mark.parametrize("kind", ["F16", "Q4_0"])
def test_tensors_without_elements_are_refused(shape: tuple[int, ...], name: str, kind: str) -> None:
    odd = TensorInfo(name=name, shape=shape, type=kind, offset=0, size=0)
    with pytest.raises(ValueError, match=f"tensor {name} has the shape"):
        describe(metadata(), [*TENSORS, odd])
