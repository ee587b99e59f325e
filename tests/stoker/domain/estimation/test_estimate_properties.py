"""What holds for the estimate of every model, whatever its options and however it is split."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.workers import DeviceKind
from tests.builders import make_profile


def estimated(
    profile: ModelProfile,
    options: EngineOptions | None = None,
    split: tuple[int, ...] = (),
    kinds: tuple[DeviceKind, ...] = (),
) -> MemoryEstimate:
    outcome = estimate(profile, options or EngineOptions(), split, kinds)
    assert isinstance(outcome, MemoryEstimate), outcome
    return outcome


blocks = st.integers(0, 64).map(lambda count: 32 * count)
layer_shapes = st.builds(
    LayerShape,
    weights=st.integers(0, 2**32),
    padding=st.integers(0, 2**16),
    key_width=blocks,
    value_width=blocks,
    windowed=st.booleans(),
    state=st.integers(0, 2**24),
    heads=st.integers(0, 128),
    query_width=st.integers(0, 2**16),
    experts_used=st.integers(0, 16),
    feed_forward=st.integers(0, 2**18),
    attention=st.integers(0, 2**17),
    mixing=st.integers(0, 2**17),
    handed_on=st.integers(0, 2**15),
    taken_in=st.integers(0, 2**15),
)
profiles = st.builds(
    make_profile,
    layers=st.lists(layer_shapes, min_size=1, max_size=8).map(tuple),
    embedding_length=st.integers(1, 2**15),
    vocabulary=st.integers(1, 2**18),
    context_length=st.just(2**20),
    sliding_window=st.integers(0, 2**13),
    input_weights=st.integers(0, 2**33),
    output_weights=st.integers(0, 2**33),
    output_padding=st.integers(0, 2**16),
    shared_weights=st.integers(0, 2**16),
    tied_weights=st.integers(0, 2**33),
    encoder=st.booleans(),
    pooling=st.booleans(),
    whole_last_layer=st.booleans(),
    whole_output=st.booleans(),
)
asked_options = st.builds(
    EngineOptions,
    context_length=st.integers(128, 2**17),
    slots=st.integers(1, 256),
    cache_type=st.sampled_from([CacheType.F32, CacheType.F16, CacheType.BF16]),
    flash_attention=st.booleans(),
    kv_unified=st.booleans(),
    batch=st.integers(32, 4096),
    micro_batch=st.integers(32, 4096),
    embeddings=st.booleans(),
)
kinds = st.lists(st.sampled_from(DeviceKind), max_size=5).map(tuple)


@st.composite
def spread(draw: st.DrawFn) -> tuple[ModelProfile, tuple[int, ...]]:
    """A model and a split of all or some of its layers; some devices may get none."""
    profile = draw(profiles)
    most = profile.block_count + 1
    bounds = sorted(draw(st.lists(st.integers(0, most), max_size=5)))
    return profile, tuple(end - start for start, end in pairwise(bounds)) + ((most - bounds[-1],) if bounds else ())


def parts(found: MemoryEstimate) -> list[DeviceMemory | HostMemory]:
    return [*found.devices, found.host]


def grows(smaller: MemoryEstimate, larger: MemoryEstimate) -> bool:
    return all(one.total <= other.total for one, other in zip(parts(smaller), parts(larger), strict=True))


@given(spread(), asked_options, kinds, st.integers(1, 2**17))
def test_more_context_never_needs_less(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions, on: tuple[DeviceKind, ...], more: int
) -> None:
    profile, split = model
    assert asked.context_length is not None
    larger = asked.model_copy(update={"context_length": asked.context_length + more})
    assert grows(estimated(profile, asked, split, on), estimated(profile, larger, split, on))


@given(spread(), asked_options, kinds, st.integers(2, 8))
def test_more_slots_never_need_less(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions, on: tuple[DeviceKind, ...], factor: int
) -> None:
    profile, split = model
    larger = asked.model_copy(update={"slots": asked.slots * factor})
    assert grows(estimated(profile, asked, split, on), estimated(profile, larger, split, on))


@given(spread(), asked_options, kinds, st.integers(0, 4096))
def test_a_larger_micro_batch_never_needs_less(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions, on: tuple[DeviceKind, ...], more: int
) -> None:
    """Beyond a token for each slot: with one, the last layer's feed-forward part works on all, with more on less."""
    assume(min(asked.batch, asked.micro_batch) > asked.slots)
    profile, split = model
    larger = asked.model_copy(update={"micro_batch": asked.micro_batch + more})
    assert grows(estimated(profile, asked, split, on), estimated(profile, larger, split, on))


@pytest.mark.parametrize(
    "types",
    [
        (CacheType.F16, CacheType.BF16),
        (CacheType.Q4_0, CacheType.Q4_1, CacheType.Q5_0, CacheType.Q5_1, CacheType.Q8_0),
    ],
)
@given(model=spread(), asked=asked_options)
def test_a_smaller_cache_type_needs_less_cache_and_nothing_else(
    types: tuple[CacheType, ...], model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions
) -> None:
    """Among those that are quantised, and those that are not; F32 is read through a copy besides."""
    profile, split = model
    found = [estimated(profile, of_type(asked, cache_type), split) for cache_type in types]
    for smaller, larger in pairwise(found):
        for one, other in zip(parts(smaller), parts(larger), strict=True):
            assert one.cache <= other.cache
            assert one.model_copy(update={"cache": 0}) == other.model_copy(update={"cache": 0})


@given(spread(), asked_options)
def test_a_quantised_cache_needs_less_cache_and_more_to_compute(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions
) -> None:
    """Its keys and values are turned before; with few cells that may be more than is saved."""
    profile, split = model
    smaller, larger = (estimated(profile, of_type(asked, each), split) for each in (CacheType.Q8_0, CacheType.F16))
    for one, other in zip(parts(smaller), parts(larger), strict=True):
        assert one.cache <= other.cache
        assert one.compute >= other.compute
        assert one.model_copy(update={"cache": 0, "compute": 0}) == other.model_copy(update={"cache": 0, "compute": 0})


def of_type(asked: EngineOptions, cache_type: CacheType) -> EngineOptions:
    return asked.model_copy(update={"flash_attention": True, "cache_type": cache_type})


@given(spread(), asked_options, kinds)
def test_every_weight_and_every_cache_lies_somewhere(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions, on: tuple[DeviceKind, ...]
) -> None:
    profile, split = model
    found = estimated(profile, asked, split, on)
    first = profile.block_count + 1 - sum(split)
    bounds = [first]
    for count in split:
        bounds.append(bounds[-1] + count)
    weights = profile.input_weights + profile.output_weights + sum(layer.weights for layer in profile.layers)
    # copies: rope factors wherever a layer is, embeddings beside an output that is not in RAM, a GPU's padding
    weights += profile.shared_weights * (
        (first > 0) + sum(start < min(end, profile.block_count) for start, end in pairwise(bounds))
    )
    weights += profile.tied_weights if first <= profile.block_count else 0
    for index, (start, end) in enumerate(pairwise(bounds)):
        if index >= len(on) or on[index] is not DeviceKind.CPU:
            weights += sum(layer.padding for layer in profile.layers[start:end])
            weights += profile.output_padding if start <= profile.block_count < end else 0
    assert found.host.weights + sum(device.weights for device in found.devices) == weights
    alone = estimated(profile, asked)
    assert found.host.cache + sum(device.cache for device in found.devices) == alone.host.cache
    assert [device.layers for device in found.devices] == list(split)


@given(spread(), asked_options, kinds)
def test_a_device_without_layers_needs_nothing(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions, on: tuple[DeviceKind, ...]
) -> None:
    profile, split = model
    for layers, device in zip(split, estimated(profile, asked, split, on).devices, strict=True):
        assert (device == DeviceMemory()) == (layers == 0)


@given(spread(), asked_options, kinds)
def test_an_estimate_is_one(
    model: tuple[ModelProfile, tuple[int, ...]], asked: EngineOptions, on: tuple[DeviceKind, ...]
) -> None:
    profile, split = model
    found = estimated(profile, asked, split, on)
    assert found == estimated(profile, asked, split, on)
    assert MemoryEstimate.model_validate_json(found.model_dump_json()) == found
    assert found.context_length == asked.context_length


@given(profiles, asked_options)
def test_more_devices_never_need_more_on_one_of_them(profile: ModelProfile, asked: EngineOptions) -> None:
    """Of weights and cache; a pipeline's copies come on top."""
    together = estimated(profile, asked, whole(profile)).devices[0]
    for device in estimated(profile, asked, (1, profile.block_count)).devices:
        assert device.weights <= together.weights
        assert device.cache <= together.cache
