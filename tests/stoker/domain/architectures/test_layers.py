"""What each layer keeps, per architecture: published lengths, and llama.cpp's rules worked by hand.

The rules are those of llama_model::create_memory, llama_hparams and src/models/*.cpp (load_arch_hparams).
"""

from typing import Any

import pytest

from stoker.domain.architectures import families
from stoker.domain.gguf import LayerShape, ModelProfile
from tests.stoker.domain.architectures.headers import profile_of


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
    return layer.key_width, layer.value_width


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


# --- sliding windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "layer_count", "window", "full"),
    [
        ("gemma2", 6, None, [1, 3, 5]),
        ("gemma3", 13, 1024, [5, 11]),
        ("gemma3n", 11, 512, [4, 9]),
        ("cohere2", 9, 4096, [3, 7]),
        ("cohere2moe", 9, 4096, [0, 4, 8]),
        ("gpt-oss", 6, 128, [1, 3, 5]),
        ("llama4", 9, None, [3, 7]),
        ("llama4", 9, 4096, [3, 7]),
        ("olmo2", 9, 4096, [3, 7]),
        ("afmoe", 9, 2048, [3, 7]),
        ("exaone-moe", 9, None, [3, 7]),
        ("smallthinker", 9, 512, [0, 4, 8]),
        ("laguna", 9, 512, [0, 4, 8]),
        ("plamo3", 17, 2048, [7, 15]),
        ("mellum", 9, 1024, [3, 7]),
        ("muse-glimmer", 9, 1024, [3, 7]),
    ],
)
def test_the_full_layers_of_architectures_with_a_fixed_pattern(
    architecture: str, layer_count: int, window: int | None, full: list[int]
) -> None:
    found = profile_of(architecture, layer_count, attention__sliding_window=window)
    assert windowed(found) == [index for index in range(layer_count) if index not in full]
    assert attending(found) == list(range(layer_count))


@pytest.mark.parametrize(
    ("architecture", "layer_count", "asked", "size"),
    [
        ("gemma2", 2, None, 4096),
        ("gemma2", 2, 2048, 2048),
        ("gemma3", 2, None, 0),  # llama.cpp: then no layer has a window
        ("gemma3", 2, 0, 0),
        ("gemma3", 2, 1024, 1024),
        ("exaone-moe", 2, None, 128),
        ("llama4", 2, None, 8192),
        ("llama4", 2, 1024, 8192),  # set by the code, whatever the header says
        ("llama4", 2, 0, 0),
        ("smallthinker", 2, 512, 4096),
        ("smallthinker", 2, None, 0),
        ("olmo2", 2, None, 0),
        ("gpt-oss", 2, 128, 128),
        ("exaone4", 64, None, 4096),  # the 32B model
        ("exaone4", 64, 2048, 2048),
        ("exaone4", 30, 4096, 0),  # the 1.2B model
        ("llama", 2, 4096, 0),
    ],
)
def test_the_size_of_the_window(architecture: str, layer_count: int, asked: int | None, size: int) -> None:
    found = profile_of(architecture, layer_count, attention__sliding_window=asked)
    assert found.sliding_window == size
    assert (windowed(found) == []) == (size == 0)


def test_exaone_4_counts_its_layers_without_those_for_prediction() -> None:
    assert profile_of("exaone4", 65, nextn_predict_layers=1).sliding_window == 4096
    assert profile_of("exaone4", 64, nextn_predict_layers=1).sliding_window == 0


def test_a_header_may_list_the_windowed_layers_or_name_their_period() -> None:
    listed = profile_of(
        "gemma3", 4, attention__sliding_window=512, attention__sliding_window_pattern=[True, False, False, True]
    )
    assert windowed(listed) == [0, 3]
    period = profile_of("gemma3", 4, attention__sliding_window=512, attention__sliding_window_pattern=2)
    assert windowed(period) == [0, 2]
    none = profile_of("gemma3", 4, attention__sliding_window=512, attention__sliding_window_pattern=1)
    assert windowed(none) == []
    every = profile_of("gemma3", 4, attention__sliding_window=512, attention__sliding_window_pattern=0)
    assert windowed(every) == [0, 1, 2, 3]


def test_a_list_that_ends_early_goes_on_without_windows() -> None:
    """EXAONE's files list the trunk's layers only, without those for prediction."""
    found = profile_of(
        "exaone-moe",
        5,
        nextn_predict_layers=1,
        attention__sliding_window=128,
        attention__sliding_window_pattern=[True, True, True, False],
    )
    assert (windowed(found), attending(found)) == ([0, 1, 2], [0, 1, 2, 3])


def test_windowed_layers_may_have_other_heads() -> None:
    """Gemma 4 and MiMo V2: lengths and counts of their own."""
    found = profile_of(
        "mimo2",
        3,
        attention__head_count=64,
        attention__head_count_kv=[4, 8, 8],
        attention__key_length=192,
        attention__value_length=128,
        attention__key_length_swa=96,
        attention__value_length_swa=64,
        attention__sliding_window=128,
        attention__sliding_window_pattern=[False, True, True],
    )
    assert [widths(layer) for layer in found.layers] == [(768, 512), (768, 512), (768, 512)]
    assert windowed(found) == [1, 2]


def test_gemma_3n_caches_20_layers() -> None:
    """The others of E4B's 35 read the caches of layers 18 (windowed) and 19."""
    found = profile_of(
        "gemma3n", 35, attention__sliding_window=512, attention__shared_kv_layers=15, attention__head_count_kv=2
    )
    assert attending(found) == list(range(20))
    assert attending(profile_of("gemma3n", 10, attention__sliding_window=512)) == list(range(10))


@pytest.mark.parametrize(("shared", "cached"), [(0, 6), (2, 4), (6, 0), (9, 0)])
def test_gemma_4_says_how_many_layers_share(shared: int, cached: int) -> None:
    found = profile_of(
        "gemma4",
        6,
        attention__sliding_window=512,
        attention__sliding_window_pattern=[True, True, False] * 2,
        attention__shared_kv_layers=shared,
    )
    assert attending(found) == list(range(cached))


# --- recurrent and hybrid --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "numbers", "state"),
    [
        # Mamba 2.8B: 3 columns of 5120, and 16 x 5120
        (
            "mamba",
            {"embedding_length": 2560, "ssm__conv_kernel": 4, "ssm__inner_size": 5120, "ssm__state_size": 16},
            4 * (3 * 5120 + 16 * 5120),
        ),
        # Mamba 2 2.7B: B and C of one group are convolved too
        (
            "mamba2",
            {
                "embedding_length": 2560,
                "ssm__conv_kernel": 4,
                "ssm__inner_size": 5120,
                "ssm__state_size": 128,
                "ssm__group_count": 1,
            },
            2_685_952,
        ),
        # RWKV 7 2.9B: two shifted tokens, and 40 heads of 64 x 64
        ("rwkv7", {"embedding_length": 2560, "wkv__head_size": 64}, 4 * (2 * 2560 + 40 * 64 * 64)),
        ("rwkv6", {"embedding_length": 2560, "wkv__head_size": 64}, 4 * (2 * 2560 + 40 * 64 * 64)),
        # QRWKV shifts one token only
        (
            "rwkv6qwen2",
            {"embedding_length": 2560, "wkv__head_size": 64, "token_shift_count": 1},
            4 * (2560 + 40 * 64 * 64),
        ),
        ("arwkv7", {"embedding_length": 2560, "wkv__head_size": 64, "token_shift_count": 1}, 4 * (2560 + 40 * 64 * 64)),
    ],
)
def test_recurrent_models_keep_a_state_and_no_keys(architecture: str, numbers: dict[str, Any], state: int) -> None:
    found = profile_of(architecture, 3, attention__head_count=0, attention__head_count_kv=None, **numbers)
    assert [(*widths(layer), layer.state) for layer in found.layers] == [(0, 0, state)] * 3


JAMBA = {"ssm__conv_kernel": 4, "ssm__inner_size": 8192, "ssm__state_size": 16}


@pytest.mark.parametrize("architecture", sorted(families.HYBRID_BY_HEADS - {"lfm2", "lfm2moe", "kimi-linear"}))
def test_layers_without_heads_for_keys_are_recurrent(architecture: str) -> None:
    found = profile_of(architecture, 4, attention__head_count_kv=[0, 2, 0, 0], **JAMBA)
    assert attending(found) == [1]
    assert recurrent(found) == [0, 2, 3]
    assert {found.layers[index].state for index in (0, 2, 3)} == {4 * (3 * 8192 + 16 * 8192)}
    assert widths(found.layers[1]) == (32, 32)


@pytest.mark.parametrize("architecture", ["nemotron_h", "nemotron_h_moe"])
def test_nemotron_h_has_layers_that_keep_nothing(architecture: str) -> None:
    found = profile_of(
        architecture, 3, attention__head_count_kv=[0, 0, 2], feed_forward_length=[0, 12_288, 0], **JAMBA
    )
    assert (recurrent(found), attending(found)) == ([0], [2])


def test_lfm2() -> None:
    """LFM2 1.2B: convolutions over 3 tokens, and 6 of 16 layers attend."""
    full = [2, 5, 8, 10, 12, 14]
    numbers: dict[str, Any] = {
        "embedding_length": 2048,
        "attention__head_count": 32,
        "attention__head_count_kv": [8 if index in full else 0 for index in range(16)],
        "shortconv__l_cache": 3,
    }
    found = profile_of("lfm2", 16, **numbers)
    assert attending(found) == full
    assert {found.layers[index].state for index in recurrent(found)} == {4 * 2 * 2048}
    assert widths(found.layers[2]) == (512, 512)
    assert windowed(found) == []
    assert windowed(profile_of("lfm2", 16, attention__sliding_window=4096, **numbers)) == full


def test_only_the_dense_lfm2_has_windows() -> None:
    """src/models/lfm2moe.cpp does not read the key."""
    found = profile_of(
        "lfm2moe", 2, attention__head_count_kv=[0, 2], shortconv__l_cache=3, attention__sliding_window=512
    )
    assert (windowed(found), found.sliding_window) == ([], 0)


QWEN3_NEXT = {
    "embedding_length": 2048,
    "attention__head_count": 16,
    "attention__head_count_kv": 2,
    "attention__key_length": 256,
    "attention__value_length": 256,
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 4096,
    "ssm__state_size": 128,
    "ssm__group_count": 16,
}


def test_qwen3_next() -> None:
    """80B-A3B: each fourth of 48 layers attends."""
    found = profile_of("qwen3next", 48, **QWEN3_NEXT)
    assert attending(found) == list(range(3, 48, 4))
    assert recurrent(found) == [index for index in range(48) if index % 4 != 3]
    assert widths(found.layers[3]) == (512, 512)
    assert found.layers[0].state == 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096) == 2_195_456


@pytest.mark.parametrize(
    ("architecture", "numbers", "full"),
    [
        ("qwen3next", {"full_attention_interval": 2}, [1, 3, 5, 7]),
        ("qwen35", {}, [3, 7]),
        ("qwen35moe", {}, [3, 7]),
        ("minimax-01", {}, [7]),
        ("qwen35", {"attention__recurrent_layers": [True] * 6 + [False] * 2}, [6, 7]),
        ("qwen35", {"full_attention_interval": 1}, list(range(8))),
        ("qwen35", {"full_attention_interval": 0}, list(range(8))),  # no division by it
        ("qwen35", {"nextn_predict_layers": 1}, [3]),  # the last block is not loaded
    ],
)
def test_layers_that_attend_by_interval(architecture: str, numbers: dict[str, Any], full: list[int]) -> None:
    found = profile_of(architecture, 8, **QWEN3_NEXT, **numbers)
    assert attending(found) == full
    trunk = 8 - numbers.get("nextn_predict_layers", 0)
    assert recurrent(found) == [index for index in range(trunk) if index not in full]


def test_minimax_01() -> None:
    """Lightning attention keeps 128 x 128 a head."""
    found = profile_of(
        "minimax-01",
        80,
        embedding_length=6144,
        attention__head_count=64,
        attention__head_count_kv=8,
        attention__key_length=128,
        attention__value_length=128,
    )
    assert attending(found) == list(range(7, 80, 8))
    assert found.layers[0].state == 4 * 64 * 128 * 128


def test_falcon_h1_attends_and_keeps_a_state_in_every_layer() -> None:
    """7B: 3 columns of 3072 and of B and C (256 each), and 256 x 3072."""
    found = profile_of(
        "falcon-h1",
        44,
        embedding_length=3072,
        attention__head_count=12,
        attention__head_count_kv=2,
        attention__key_length=128,
        attention__value_length=128,
        ssm__conv_kernel=4,
        ssm__inner_size=3072,
        ssm__state_size=256,
        ssm__group_count=1,
    )
    assert {(*widths(layer), layer.state) for layer in found.layers} == {(256, 256, 4 * (3 * 3584 + 256 * 3072))}


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
