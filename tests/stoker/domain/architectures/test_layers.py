"""What each layer keeps, per architecture: published lengths, and llama.cpp's rules worked by hand.

The rules are those of llama_model::create_memory, llama_hparams and src/models/*.cpp (load_arch_hparams).
"""

from typing import Any

import pytest

from stoker.domain.architectures import families
from stoker.domain.gguf import LayerShape
from tests.stoker.domain.architectures.headers import attending, profile_of, recurrent, widths, windowed

JAMBA = {"ssm__conv_kernel": 4, "ssm__inner_size": 8192, "ssm__state_size": 16}


# --- attention over the whole context ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({}, (2 * 16, 2 * 16)),  # embedding_length over heads: 64 / 4
        ({"attention__head_count_kv": None}, (4 * 16, 4 * 16)),  # as many as there are heads for queries
        ({"attention__key_length": 128, "attention__value_length": 96}, (2 * 128, 2 * 96)),
        ({"attention__key_length_swa": 999}, (2 * 16, 2 * 16)),  # no layer has a window
        ({"attention__head_count": 0}, (0, 0)),  # without heads there are no keys
        ({"attention__head_count": 3}, (2 * 21, 2 * 21)),  # 64 / 3 is rounded down
    ],
)
def test_widths_of_keys_and_values(numbers: dict[str, Any], expected: tuple[int, int]) -> None:
    assert [widths(layer) for layer in profile_of("llama", 2, **numbers).layers] == [expected] * 2


def test_llama_3_1_8b() -> None:
    found = profile_of(
        "llama", 32, embedding_length=4096, attention__head_count=32, attention__head_count_kv=8
    )  # head size 128
    assert {(*widths(layer), layer.heads, layer.windowed, layer.state) for layer in found.layers} == {
        (1024, 1024, 32, False, 0)
    }


@pytest.mark.parametrize("architecture", sorted(families.PLAIN))
def test_a_window_that_llama_cpp_does_not_act_on(architecture: str) -> None:
    """phi3, qwen2 and mistral's files name one."""
    found = profile_of(architecture, 2, attention__sliding_window=2048)
    assert found == profile_of(architecture, 2)
    assert [widths(layer) for layer in found.layers] == [(32, 32)] * 2
    assert (windowed(found), recurrent(found), found.sliding_window) == ([], [], 0)
    assert found.caution == ""


def test_heads_of_each_layer() -> None:
    """OpenELM and Nemotron-NAS (deci) have as many as each layer needs, or none."""
    found = profile_of("deci", 3, attention__head_count=[4, 4, 0], attention__head_count_kv=[2, 1, 0])
    assert [widths(layer) for layer in found.layers] == [(32, 32), (16, 16), (0, 0)]
    assert [layer.heads for layer in found.layers] == [4, 4, 0]


def test_the_first_layer_sets_the_length_of_a_head() -> None:
    """llama_hparams::n_head() is that of layer 0."""
    assert profile_of("openelm", 2, attention__head_count=[4, 8], attention__head_count_kv=[1, 2]).key_length == 16
    assert profile_of("openelm", 2, attention__head_count=[8, 4], attention__head_count_kv=[1, 2]).key_length == 8
    assert profile_of("openelm", 2, attention__head_count=[0, 4], attention__head_count_kv=[0, 2]).key_length == 0


# --- latent attention ------------------------------------------------------------------------------------

DEEPSEEK_R1 = {
    "embedding_length": 7168,
    "attention__head_count": 128,
    "attention__head_count_kv": 1,
    "attention__key_length": 576,  # kv_lora_rank 512 and 64 for the positions
    "attention__value_length": 512,
    "attention__key_length_mla": 192,
    "attention__value_length_mla": 128,
}


def test_deepseek_r1_keeps_compressed_keys_only() -> None:
    found = profile_of("deepseek2", 61, **DEEPSEEK_R1)
    assert {widths(layer) for layer in found.layers} == {(576, 0)}
    assert 2 * sum(layer.key_width + layer.value_width for layer in found.layers) == 70_272  # bytes a token, f16


def test_deepseek_files_from_before_latent_caches_keep_all_heads() -> None:
    numbers = DEEPSEEK_R1 | {
        "attention__head_count_kv": 128,
        "attention__key_length": 192,
        "attention__value_length": 128,
        "attention__key_length_mla": None,
        "attention__value_length_mla": None,
    }
    assert {widths(layer) for layer in profile_of("deepseek2", 3, **numbers).layers} == {(24_576, 16_384)}


def test_kimi_linear_is_latent_where_it_is_not_recurrent() -> None:
    """Kimi Linear 48B: 27 layers, each fourth and the last latent, KDA with 32 heads of 128 elsewhere."""
    full = [3, 7, 11, 15, 19, 23, 26]
    found = profile_of(
        "kimi-linear",
        27,
        embedding_length=2304,
        attention__head_count=32,
        attention__head_count_kv=[1 if index in full else 0 for index in range(27)],
        attention__key_length=576,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
        kda__head_dim=128,
        ssm__conv_kernel=4,
    )
    assert attending(found) == full
    assert {widths(found.layers[index]) for index in full} == {(576, 0)}
    assert recurrent(found) == [index for index in range(27) if index not in full]
    # convolutions of q, k and v: 3 columns of 4096 each; the state: 128 x 128 a head
    assert found.layers[0].state == 4 * (3 * 3 * 4096 + 32 * 128 * 128)


# --- no cache, and no layer ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(families.ENCODERS))
def test_encoders_keep_nothing(architecture: str) -> None:
    found = profile_of(architecture, 2, attention__sliding_window=512)
    assert found.encoder
    assert (attending(found), recurrent(found), windowed(found)) == ([], [], [])
    assert [layer.weights for layer in found.layers] == [32_768] * 2


@pytest.mark.parametrize("architecture", ["glm4moe", "deepseek2", "qwen3next", "mimo2", "nemotron_h_moe"])
def test_blocks_for_multi_token_prediction_keep_nothing_and_weigh_nothing(architecture: str) -> None:
    found = profile_of(
        architecture,
        5,
        nextn_predict_layers=1,
        attention__sliding_window=512,
        attention__sliding_window_pattern=[True] * 5,
        **JAMBA,
    )
    assert found.layers[4] == LayerShape()
    assert found.block_count == 5, "llama.cpp counts it when it spreads layers over devices"
    assert found.unused_weights == 32_768
    assert all(layer.attends or layer.state for layer in found.layers[:4])


def test_the_block_for_prediction_of_bailing_moe_3_is_cached_though_not_loaded() -> None:
    """Its hybrid memory takes every layer that is not recurrent (llama_memory_hybrid, without filters)."""
    found = profile_of(
        "bailingmoe3",
        3,
        nextn_predict_layers=1,
        attention__head_count_kv=[0, 1, 1],
        attention__key_length=576,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
        kda__head_dim=128,
        ssm__conv_kernel=4,
    )
    assert [widths(layer) for layer in found.layers] == [(0, 0), (576, 0), (576, 0)]
    assert found.layers[2].weights == 0


# --- what is not known -----------------------------------------------------------------------------------


def test_an_unknown_architecture_keeps_the_whole_context_in_every_layer() -> None:
    found = profile_of("novel", 3, attention__sliding_window=128, full_attention_interval=4)
    assert [widths(layer) for layer in found.layers] == [(32, 32)] * 3
    assert windowed(found) == []
    assert "the architecture novel is not known to Stoker" in found.caution


def test_an_unknown_architecture_with_a_state_keeps_it_beside_its_keys() -> None:
    """Which of its layers attend is not known either: all may."""
    found = profile_of("novel", 3, **JAMBA)
    assert [(*widths(layer), layer.state) for layer in found.layers] == [(32, 32, 4 * (3 * 8192 + 16 * 8192))] * 3
    some = profile_of("novel", 3, attention__head_count_kv=[0, 2, 0], **JAMBA)
    assert (attending(some), recurrent(some)) == ([1], [0, 1, 2])


@pytest.mark.parametrize("architecture", ["deepseek32", "glm-dsa", "novel"])
def test_an_indexer_keeps_keys_of_its_own(architecture: str) -> None:
    """DeepSeek 3.2 and GLM 5: one head more (llama_kv_cache_dsa)."""
    found = profile_of(architecture, 2, **DEEPSEEK_R1, attention__indexer__key_length=128)
    assert {layer.key_width for layer in found.layers} == {576 + 128}
