"""Layers with a sliding window, per architecture, by llama.cpp's rules (load_swa_pattern) worked by hand."""

import pytest

from tests.stoker.domain.architectures.headers import attending, profile_of, widths, windowed


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
