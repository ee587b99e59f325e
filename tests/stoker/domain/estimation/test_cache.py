"""Cells and bytes of the cache: published models worked by hand, and llama.cpp's rounding."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.cache import (
    CACHE_BLOCKS,
    CacheShape,
    cache_shape,
    embeds,
    layer_cache,
    micro_batch_tokens,
    padded,
)
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.units import KIB, MIB
from tests.builders import make_layer, make_profile


def cached(profile: ModelProfile, context: int, **options: Any) -> tuple[int, ...]:
    """Bytes of each layer, for one slot unless `options` say otherwise."""
    asked = EngineOptions(**{"slots": 1, "context_length": context} | options)
    return layer_cache(profile, asked, cache_shape(profile, asked, context))


@pytest.mark.parametrize(
    ("context", "cells"), [(128, 256), (256, 256), (257, 512), (8191, 8192), (8192, 8192), (100_000, 100_096)]
)
def test_cells_are_rounded_up(context: int, cells: int) -> None:
    assert padded(context) == cells


def test_every_type_of_cache_has_a_block() -> None:
    assert set(CACHE_BLOCKS) == set(CacheType)


@pytest.mark.parametrize(
    ("cache_type", "bytes_per_token"),
    [
        (CacheType.F32, 256 * KIB),
        (CacheType.F16, 128 * KIB),
        (CacheType.BF16, 128 * KIB),
        (CacheType.Q8_0, 68 * KIB),  # 34 bytes for 32 elements
        (CacheType.Q5_1, 48 * KIB),
        (CacheType.Q5_0, 44 * KIB),
        (CacheType.Q4_1, 40 * KIB),
        (CacheType.Q4_0, 36 * KIB),
        (CacheType.IQ4_NL, 36 * KIB),
    ],
)
def test_llama_3_1_8b(cache_type: CacheType, bytes_per_token: int) -> None:
    """32 layers of 8 heads with 128 keys and 128 values."""
    assert sum(cached(make_profile(), 1000, slots=3, cache_type=cache_type)) == 3 * 1024 * bytes_per_token


def test_keys_and_values_may_have_different_types() -> None:
    sizes = cached(make_profile(), 256, cache_type=CacheType.Q8_0, cache_type_v=CacheType.Q4_0)
    assert sizes == (256 * (1024 * 34 // 32 + 1024 * 18 // 32),) * 32


# --- which cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, CacheShape(streams=4, cells=1024, windowed=1024)),
        ({"slots": 1}, CacheShape(streams=1, cells=1024, windowed=1024)),
        ({"kv_unified": True}, CacheShape(streams=1, cells=4096, windowed=4096)),  # 4 x 1000, rounded once
        ({"embeddings": True}, CacheShape(streams=1, cells=4096, windowed=4096)),
        ({"micro_batch": 128}, CacheShape(streams=4, cells=1024, windowed=1024)),
        ({"context_length": 4096, "micro_batch": 128}, CacheShape(streams=4, cells=4096, windowed=1280)),
        ({"context_length": 4096, "batch": 64}, CacheShape(streams=4, cells=4096, windowed=1280)),
        ({"context_length": 4096, "slots": 1}, CacheShape(streams=1, cells=4096, windowed=1536)),
        # every slot's window is in the shared cache
        ({"context_length": 4096, "kv_unified": True}, CacheShape(streams=1, cells=16_384, windowed=4608)),
        ({"context_length": 8192, "embeddings": True, "slots": 3}, CacheShape(streams=1, cells=24_576, windowed=3840)),
    ],
)
def test_the_shape_for_a_window_of_1024(options: dict[str, Any], shape: CacheShape) -> None:
    """llama_kv_cache_iswa: window (of each slot, when unified) and one micro-batch, rounded up to 256 cells.

    Three slots that embed ask for micro-batches of 513: 3 x 1024 + 513 is more than 14 x 256.
    """
    asked = EngineOptions(**{"context_length": 1000} | options)
    assert asked.context_length is not None
    assert cache_shape(make_profile(sliding_window=1024), asked, asked.context_length) == shape


def test_a_model_that_pools_shares_its_cells() -> None:
    pooling = make_profile(pooling=True)
    assert embeds(pooling, EngineOptions())
    assert cache_shape(pooling, EngineOptions(), 8192) == CacheShape(streams=1, cells=32_768, windowed=512)
    assert not embeds(make_profile(), EngineOptions())


@pytest.mark.parametrize(
    ("options", "context", "tokens"),
    [
        ({}, 8192, 512),
        ({"batch": 256}, 8192, 256),
        ({"micro_batch": 4096}, 8192, 2048),  # no more than a batch
        ({"slots": 1}, 200, 200),  # nor than the context
        ({"slots": 2}, 200, 400),
        ({"embeddings": True, "slots": 3}, 8192, 513),  # equally many of each slot
    ],
)
def test_tokens_of_a_micro_batch(options: dict[str, Any], context: int, tokens: int) -> None:
    assert micro_batch_tokens(make_profile(), EngineOptions(**options), context) == tokens


def test_an_encoder_may_be_sent_as_much_as_its_rounded_context_holds() -> None:
    """llama_context bounds causal models' batches by the context that was asked for, others' by what it became."""
    encoder = make_profile(encoder=True, pooling=True)
    assert micro_batch_tokens(encoder, EngineOptions(slots=1), 200) == 256


# --- published models, one slot, f16 ----------------------------------------------------------------------


def test_gemma_3_27b() -> None:
    """62 layers of 16 heads of 128; each sixth sees all, the others 1024 tokens and the micro-batch."""
    layer = make_layer(key_width=2048, value_width=2048)
    layers = tuple(layer.model_copy(update={"windowed": index % 6 != 5}) for index in range(62))
    profile = make_profile(layers=layers, sliding_window=1024)
    sizes = cached(profile, 32_768)
    assert sizes[5] == 256 * MIB
    assert sizes[0] == 12 * MIB  # 1536 cells
    assert sum(sizes) == (10 * 256 + 52 * 12) * MIB
    assert sum(cached(profile, 512)) == 62 * 4 * MIB  # no window is larger than the context


def test_deepseek_r1() -> None:
    """61 layers of 512 compressed and 64 positional elements, and no values."""
    layers = (make_layer(key_width=576, value_width=0, heads=128),) * 61
    assert sum(cached(make_profile(layers=layers), 8192)) == 8192 * 61 * 576 * 2


def test_gpt_oss_20b() -> None:
    """24 layers of 8 heads of 64, every other with a window of 128."""
    layers = tuple(make_layer(key_width=512, value_width=512, windowed=index % 2 == 0) for index in range(24))
    sizes = cached(make_profile(layers=layers, sliding_window=128), 131_072)
    assert sum(sizes) == 12 * 256 * MIB + 12 * 768 * 2048  # 128 + 512 are 768 cells


def test_mamba_2_2_7b_has_a_state_however_long_the_context() -> None:
    layers = (LayerShape(weights=1, state=2_685_952),) * 64
    profile = make_profile(layers=layers)
    assert sum(cached(profile, 512, slots=4)) == sum(cached(profile, 131_072, slots=4)) == 4 * 64 * 2_685_952
    # one for each slot, shared cache or not
    assert cached(profile, 512, slots=4, kv_unified=True) == cached(profile, 512, slots=4)


def test_falcon_h1_has_both() -> None:
    layer = make_layer(key_width=256, value_width=256, state=3_188_736)
    assert cached(make_profile(layers=(layer,)), 1024, slots=2) == (2 * (1024 * 1024 + 3_188_736),)


def test_layers_that_keep_nothing() -> None:
    layers = (make_layer(), LayerShape(weights=1), make_layer())
    assert cached(make_profile(layers=layers), 256) == (MIB, 0, MIB)


# --- without flash attention -------------------------------------------------------------------------------


def test_transposed_values_are_as_wide_as_the_widest() -> None:
    """llama_kv_cache: TAG_V_CACHE_VARIABLE. Layers without values have none all the same."""
    layers = (make_layer(value_width=512), make_layer(), LayerShape(weights=1, state=100))
    profile = make_profile(layers=layers)
    assert cached(profile, 256) == (256 * 1536 * 2, 256 * 2048 * 2, 100)
    assert cached(profile, 256, flash_attention=False) == (256 * 2048 * 2, 256 * 2048 * 2, 100)


def test_layers_without_heads_have_values_too_where_no_hybrid_memory_leaves_them_out() -> None:
    """Nemotron-NAS (deci)."""
    profile = make_profile(layers=(make_layer(), LayerShape(weights=1)), padded_values=True)
    assert cached(profile, 256) == (MIB, 0)
    assert cached(profile, 256, flash_attention=False) == (MIB, MIB // 2)


def test_compressed_keys_have_no_values_either_way() -> None:
    profile = make_profile(layers=(make_layer(key_width=576, value_width=0),) * 2)
    assert cached(profile, 256, flash_attention=False) == cached(profile, 256)


# --- what holds for every model ----------------------------------------------------------------------------

shapes = st.builds(
    make_profile,
    layers=st.lists(
        st.builds(
            make_layer,
            key_width=st.integers(0, 64).map(lambda blocks: 32 * blocks),
            value_width=st.integers(0, 64).map(lambda blocks: 32 * blocks),
            windowed=st.booleans(),
            state=st.integers(0, 2**20),
        ),
        min_size=1,
        max_size=6,
    ).map(tuple),
    sliding_window=st.integers(0, 8192),
    pooling=st.booleans(),
)
options = st.builds(
    EngineOptions,
    slots=st.integers(1, 64),
    flash_attention=st.booleans(),
    kv_unified=st.booleans(),
    batch=st.integers(32, 4096),
    micro_batch=st.integers(32, 4096),
    cache_type=st.sampled_from(CacheType),
    cache_type_v=st.none() | st.sampled_from(CacheType),
)


@given(shapes, options, st.integers(1, 2**17))
def test_a_window_never_takes_more_cells_than_the_context(
    profile: ModelProfile, asked: EngineOptions, context: int
) -> None:
    shape = cache_shape(profile, asked, context)
    assert 0 < shape.windowed <= shape.cells
    assert shape.windowed % 256 == shape.cells % 256 == 0
    assert shape.streams * shape.cells >= asked.slots * context


@given(shapes, options, st.integers(1, 2**17))
def test_a_slot_gets_the_context_that_was_asked_for(profile: ModelProfile, asked: EngineOptions, context: int) -> None:
    """`-c context·slots -np slots`: the engine pads the sum, then each slot's share."""
    shape = cache_shape(profile, asked, context)
    total = padded(context * asked.slots)
    assert shape.cells == (total if shape.streams < asked.slots else padded(total // asked.slots))


@given(shapes, options, st.integers(1, 2**17))
def test_a_smaller_type_never_takes_more(profile: ModelProfile, asked: EngineOptions, context: int) -> None:
    def total(cache_type: CacheType) -> int:
        typed = asked.model_copy(update={"cache_type": cache_type, "cache_type_v": None})
        return sum(layer_cache(profile, typed, cache_shape(profile, typed, context)))

    sizes = [total(cache_type) for cache_type in (CacheType.F32, CacheType.F16, CacheType.Q8_0, CacheType.Q5_1)]
    sizes += [total(cache_type) for cache_type in (CacheType.Q5_0, CacheType.Q4_1, CacheType.Q4_0)]
    assert sizes == sorted(sizes, reverse=True)
    assert total(CacheType.BF16) == total(CacheType.F16)
    assert total(CacheType.IQ4_NL) == total(CacheType.Q4_0)


@given(shapes, options, st.integers(1, 2**17))
def test_windows_and_unified_caches_only_ever_save(profile: ModelProfile, asked: EngineOptions, context: int) -> None:
    full = profile.model_copy(
        update={"layers": tuple(layer.model_copy(update={"windowed": False}) for layer in profile.layers)}
    )
    shape = cache_shape(profile, asked, context)
    pairs = zip(layer_cache(profile, asked, shape), layer_cache(full, asked, shape), strict=True)
    assert all(windowed <= whole for windowed, whole in pairs)
