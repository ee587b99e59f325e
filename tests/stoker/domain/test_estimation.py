"""The memory formulae: known values worked by hand, and what must hold for every model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation import (
    DEVICE_OVERHEAD,
    DRIVER_OVERHEAD,
    PROCESS_OVERHEAD,
    PROMPT_CACHE,
    TOKENIZER_OVERHEAD,
    EstimateRefusal,
    MemoryEstimate,
    estimate,
    kv_cache_size,
    padded,
)
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.units import GIB, KIB, MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_profile

ACCELERATORS = [kind for kind in DeviceKind if kind is not DeviceKind.CPU]


def estimated(profile: ModelProfile, options: EngineOptions, kind: DeviceKind = DeviceKind.CUDA) -> MemoryEstimate:
    outcome = estimate(profile, options, kind)
    assert isinstance(outcome, MemoryEstimate), outcome
    return outcome


def refused(profile: ModelProfile, **options: Any) -> str:
    outcomes = {kind: estimate(profile, EngineOptions(**options), kind) for kind in DeviceKind}
    assert len(set(outcomes.values())) == 1
    outcome = outcomes[DeviceKind.CPU]
    assert isinstance(outcome, EstimateRefusal)
    return outcome.message


# --- worked by hand ------------------------------------------------------------------------------------------

# Llama 3.1 8B, 4 slots of 8192: D = 4096·512·4 = 8 MiB, mask = 8192·512·2 = 8 MiB, feed-forward 3·14336·512·4 = 84 MiB
INDICES = 40 * 512


def test_llama_8b_on_a_gpu() -> None:
    assert estimated(make_profile(), EngineOptions()) == MemoryEstimate(
        context_length=8192,
        slots=4,
        device_weights=32 * 125 * MIB + 411 * MIB,
        device_cache=4 * GIB,  # 128 KiB a token
        device_compute=(8 + 84 + 4 * 8) * MIB + INDICES,
        device_overhead=DEVICE_OVERHEAD,
        host_weights=282 * MIB,
        host_compute=(8 + 4 * 8) * MIB + INDICES,
        host_overhead=PROCESS_OVERHEAD + DRIVER_OVERHEAD + PROMPT_CACHE + 128_256 * (TOKENIZER_OVERHEAD + 4 * 4),
    )


def test_llama_8b_on_the_cpu() -> None:
    found = estimated(make_profile(), EngineOptions(), DeviceKind.CPU)
    assert found == MemoryEstimate(
        context_length=8192,
        slots=4,
        host_weights=(282 + 32 * 125 + 411) * MIB,
        host_cache=4 * GIB,
        host_compute=(8 + 84 + 6 * 8) * MIB + INDICES,
        host_overhead=PROCESS_OVERHEAD + PROMPT_CACHE + 128_256 * (TOKENIZER_OVERHEAD + 4 * 4) + 2 * 512 * 14_336,
    )
    assert found.device_total == 0


@pytest.mark.parametrize("kind", ACCELERATORS)
def test_every_accelerator_is_estimated_alike(kind: DeviceKind) -> None:
    assert estimated(make_profile(), EngineOptions(), kind) == estimated(make_profile(), EngineOptions())


def test_tied_embeddings_lie_on_both_sides_of_a_gpu_and_once_in_ram() -> None:
    tied = make_profile(tied_output=True, output_weights=MIB)
    assert estimated(tied, EngineOptions()).device_weights == (32 * 125 + 1 + 282) * MIB
    assert estimated(tied, EngineOptions()).host_weights == 282 * MIB
    assert estimated(tied, EngineOptions(), DeviceKind.CPU).host_weights == (282 + 32 * 125 + 1) * MIB


@pytest.mark.parametrize(
    ("context", "cells"), [(128, 256), (256, 256), (257, 512), (8191, 8192), (8192, 8192), (100_000, 100_096)]
)
def test_cells(context: int, cells: int) -> None:
    assert padded(context) == cells


@pytest.mark.parametrize(
    ("cache_type", "bytes_per_token"),
    [
        (CacheType.F16, 128 * KIB),
        (CacheType.BF16, 128 * KIB),
        (CacheType.Q8_0, 68 * KIB),  # 34 bytes for 32 elements
        (CacheType.Q4_0, 36 * KIB),  # 18 bytes for 32 elements
    ],
)
def test_kv_cache(cache_type: CacheType, bytes_per_token: int) -> None:
    assert kv_cache_size(make_profile(), cache_type, 3 * padded(1000)) == 3 * 1024 * bytes_per_token


def test_layers_without_kv_heads_have_no_cache() -> None:
    layers = tuple(LayerShape(weights=1, heads_kv=heads, feed_forward=1) for heads in (8, 0, 4))
    assert kv_cache_size(make_profile(layers=layers), CacheType.F16, 256) == 256 * 12 * 256 * 2


@pytest.mark.parametrize(
    ("changed", "options", "peak"),
    [
        ({}, {}, 84 + 4 * 8),  # MiB
        ({"gated": False}, {}, 28 + 4 * 8),
        ({}, {"micro_batch": 256}, 42 + 4 * 4),
        ({}, {"micro_batch": 1024, "batch": 512}, 84 + 4 * 8),  # the batch bounds the micro-batch
        ({}, {"context_length": 128, "slots": 1}, 21 + 4 * 2),  # so does the context
        ({"head_count": 64, "key_length": 512, "value_length": 512}, {}, 2 * 64 + 2 * 8 * 1 + 8),  # wide attention
        ({"vocabulary": 262_144}, {"slots": 256}, 256 + 4 * 8),  # a row of logits a slot
        ({"vocabulary": 131_072}, {"embeddings": True}, 256 + 4 * 8),  # a row of logits a token
        ({"vocabulary": 131_072, "pooling": True}, {}, 256 + 4 * 8),
    ],
)
def test_peak_of_activations(changed: dict[str, Any], options: dict[str, Any], peak: int) -> None:
    found = estimated(make_profile(**changed), EngineOptions(**options))
    tokens = min(options.get("micro_batch", 512), options.get("batch", 2048), options.get("context_length", 8192))
    embeds = options.get("embeddings") or changed.get("pooling")
    mask = 2 * tokens * padded(options.get("context_length", 8192)) * (4 if embeds else 1)  # one stream for all slots
    assert found.device_compute == peak * MIB + mask + 40 * tokens


def test_a_micro_batch_takes_equally_many_tokens_of_each_slot() -> None:
    one, seven = (estimated(make_profile(), EngineOptions(slots=slots)).device_compute for slots in (1, 7))
    assert seven * 512 == one * 518  # 74 tokens of each


def test_results_of_embeddings() -> None:
    plain, embeds = (estimated(make_profile(), EngineOptions(embeddings=asked)) for asked in (False, True))
    assert embeds.host_overhead - plain.host_overhead == 512 * (128_256 + 4096) * 4 - 4 * 128_256 * 4


# --- the context ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "asked", "given"),
    [(131_072, None, 8192), (2048, None, 2048), (0, None, 8192), (131_072, 131_072, 131_072), (0, 500_000, 500_000)],
)
def test_context(trained: int, asked: int | None, given: int) -> None:
    profile = make_profile(context_length=trained)
    assert estimated(profile, EngineOptions(context_length=asked)).context_length == given


# --- refusals ------------------------------------------------------------------------------------------


def test_more_context_than_the_model_was_trained_for() -> None:
    told = refused(make_profile(context_length=4096), context_length=8192)
    assert told == (
        "context_length 8192 is more than the 4096 tokens that the model was trained for: ask for 4096 or less"
    )


@pytest.mark.parametrize("changed", [{"key_length": 80}, {"value_length": 80}])
def test_a_quantised_cache_needs_whole_blocks(changed: dict[str, int]) -> None:
    told = refused(make_profile(**changed), cache_type=CacheType.Q8_0)
    assert told.startswith("cache_type q8_0 stores 32 elements at once, and this model's ")
    assert told.endswith(" have 80: ask for f16 or bf16")
    assert estimated(make_profile(**changed), EngineOptions()).device_cache > 0


def test_an_unsupported_model_says_why() -> None:
    assert refused(make_profile(unsupported="it is a mixture of experts")) == "it is a mixture of experts"


# --- what holds for every model --------------------------------------------------------------------

profiles = st.builds(
    make_profile,
    layers=st.lists(
        st.builds(
            LayerShape,
            weights=st.integers(1, 2**32),
            heads_kv=st.integers(0, 128),
            feed_forward=st.integers(0, 2**17),
        ),
        min_size=1,
        max_size=8,
    ).map(tuple),
    embedding_length=st.integers(1, 2**15),
    head_count=st.integers(1, 256),
    key_length=st.integers(1, 8).map(lambda blocks: 32 * blocks),
    value_length=st.integers(1, 8).map(lambda blocks: 32 * blocks),
    vocabulary=st.integers(1, 2**18),
    context_length=st.just(2**20),
    input_weights=st.integers(0, 2**33),
    output_weights=st.integers(0, 2**33),
    tied_output=st.booleans(),
    gated=st.booleans(),
    pooling=st.booleans(),
)
options = st.builds(
    EngineOptions,
    context_length=st.integers(128, 2**17),
    slots=st.integers(1, 256),
    cache_type=st.sampled_from(CacheType),
    batch=st.integers(32, 4096),
    micro_batch=st.integers(32, 4096),
    embeddings=st.booleans(),
)
kinds = st.sampled_from(DeviceKind)


def grows(smaller: MemoryEstimate, larger: MemoryEstimate) -> bool:
    return smaller.device_total <= larger.device_total and smaller.host_total <= larger.host_total


@given(profiles, options, kinds, st.integers(1, 2**17))
def test_more_context_never_needs_less(
    profile: ModelProfile, asked: EngineOptions, kind: DeviceKind, more: int
) -> None:
    assert asked.context_length is not None
    larger = asked.model_copy(update={"context_length": asked.context_length + more})
    assert grows(estimated(profile, asked, kind), estimated(profile, larger, kind))


@given(profiles, options, kinds, st.integers(2, 8))
def test_more_slots_never_need_less(profile: ModelProfile, asked: EngineOptions, kind: DeviceKind, factor: int) -> None:
    larger = asked.model_copy(update={"slots": asked.slots * factor})
    assert grows(estimated(profile, asked, kind), estimated(profile, larger, kind))


@given(profiles, options, kinds, st.integers(0, 4096))
def test_a_larger_micro_batch_never_needs_less(
    profile: ModelProfile, asked: EngineOptions, kind: DeviceKind, more: int
) -> None:
    larger = asked.model_copy(update={"micro_batch": asked.micro_batch + more})
    assert grows(estimated(profile, asked, kind), estimated(profile, larger, kind))


@given(profiles, options, kinds)
def test_a_smaller_cache_type_needs_less_cache_and_nothing_else(
    profile: ModelProfile, asked: EngineOptions, kind: DeviceKind
) -> None:
    found = [
        estimated(profile, asked.model_copy(update={"cache_type": cache_type}), kind)
        for cache_type in (CacheType.Q4_0, CacheType.Q8_0, CacheType.F16)
    ]
    caches = [each.device_cache + each.host_cache for each in found]
    assert caches == sorted(caches)
    assert len({each.device_total + each.host_total - cache for each, cache in zip(found, caches, strict=True)}) == 1


@given(profiles, options)
def test_every_weight_lies_somewhere(profile: ModelProfile, asked: EngineOptions) -> None:
    weights = profile.input_weights + profile.output_weights + sum(layer.weights for layer in profile.layers)
    cpu, gpu = estimated(profile, asked, DeviceKind.CPU), estimated(profile, asked)
    assert cpu.host_weights == weights
    assert gpu.device_weights + gpu.host_weights == weights + profile.tied_output * profile.input_weights
    assert cpu.host_cache == gpu.device_cache


@given(profiles, options, kinds)
def test_the_context_asked_for_is_the_one_given(profile: ModelProfile, asked: EngineOptions, kind: DeviceKind) -> None:
    """`-c context·slots -np slots` gives each slot the cells that were estimated: the engine pads twice."""
    found = estimated(profile, asked, kind)
    total = padded(found.context_length * found.slots)
    assert padded(total // found.slots) == padded(found.context_length)
