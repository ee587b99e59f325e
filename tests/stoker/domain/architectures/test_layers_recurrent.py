"""Layers with a recurrent state: published models, and llama.cpp's rules for hybrids, worked by hand."""

from typing import Any

import pytest

from stoker.domain.architectures import families
from tests.stoker.domain.architectures.headers import attending, profile_of, recurrent, widths, windowed


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
    found = profile_of(architecture, 3, attention__head_count_kv=[0, 0, 2], feed_forward_length=[0, 12_288, 0], **JAMBA)
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
