"""The cost of every stretch of layers: what an estimate says of a device that has it, however it is asked."""

import re
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.compute import COPIES
from stoker.domain.estimation.estimate import DEVICE_OVERHEAD, DRIVER_OVERHEAD, MAX_DEVICES, estimate, whole
from stoker.domain.estimation.stretches import StretchCosts
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.units import KIB, MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_layer, make_profile
from tests.published import MODELS
from tests.referee.cases import Models

GPU, CPU = DeviceKind.CUDA, DeviceKind.CPU


def costs_of(profile: ModelProfile, options: EngineOptions | None = None) -> StretchCosts:
    found = StretchCosts.of(profile, options or EngineOptions())
    assert isinstance(found, StretchCosts), found
    return found


def check(
    costs: StretchCosts,
    profile: ModelProfile,
    options: EngineOptions,
    split: tuple[int, ...],
    kinds: tuple[DeviceKind, ...],
) -> None:
    """Holds `costs` against the estimate for one split."""
    found = estimate(profile, options, split, kinds)
    assert isinstance(found, MemoryEstimate)
    first = costs.layers - sum(split)
    pipelined = len(split) > 1 and first == 0
    on_gpu = [kind is not CPU for kind in (*kinds, *[GPU] * len(split))][: len(split)]
    for (start, end), gpu, device in zip(
        pairwise(accumulate(split, initial=first)), on_gpu, found.devices, strict=True
    ):
        if start < end:
            assert costs.column(end, on_gpu=gpu, pipelined=pipelined)[start] == device.total, (start, end)
    assert costs.host(first, any_gpu=any(on_gpu), pipelined=pipelined) == found.host.total
    assert costs.estimate(split, kinds) == found
    assert (costs.context_length, costs.slots) == (found.context_length, found.slots)


def every_split(layers: int) -> Iterator[tuple[int, ...]]:
    """Splits that have, together, each stretch on a device: of a pipeline, and above layers on the host."""
    for start in range(layers):
        for end in range(start + 1, layers + 1):
            yield start, end - start, layers - end
            if start:
                yield end - start, layers - end
                yield start - 1, end - start, layers - end
    yield ()
    yield (layers,)


# --- Llama 3.1 8B, 4 slots of 8192, worked by hand -----------------------------------------------------------

INPUTS = 8 * MIB + 20 * KIB  # a mask of 512 x 8192 F16, 40 bytes a token
ROW = 8 * MIB  # 512 rows of 4096 in F32
WIDEST = 108 * MIB  # 512 x (3 x 14,336 + 3 x 4096) in F32
LAYER = (125 + 128) * MIB  # weights and cache
ALONE = 411 * MIB + 4 * 4 * 128_256 + 3 * 64 * KIB  # the output: weights, logits, rows of the four answers


@pytest.mark.parametrize(
    ("start", "end", "pipelined", "expected"),
    [
        (0, 33, False, 32 * LAYER + 411 * MIB + INPUTS + WIDEST),
        (0, 17, True, 17 * LAYER + COPIES * (INPUTS + ROW) + WIDEST),
        (17, 33, True, 15 * LAYER + 411 * MIB + COPIES * (INPUTS + ROW) + WIDEST),
        (13, 23, False, 10 * LAYER + INPUTS + ROW + WIDEST),
        (31, 32, False, LAYER + INPUTS + ROW + 26 * MIB),  # the last one's attention is its widest moment
        (32, 33, False, ALONE + 2 * ROW),
        (32, 33, True, ALONE + (COPIES + 1) * 64 * KIB),
    ],
)
def test_of_llama_8b(start: int, end: int, pipelined: bool, expected: int) -> None:
    column = costs_of(make_profile()).column(end, on_gpu=True, pipelined=pipelined)
    assert len(column) == end
    assert column[start] == expected + DEVICE_OVERHEAD


def test_what_llama_8b_leaves_on_the_host() -> None:
    costs = costs_of(make_profile())
    alone, beside = (costs.host(0, any_gpu=gpu, pipelined=False) for gpu in (False, True))
    assert beside - alone == DRIVER_OVERHEAD
    assert costs.host(0, any_gpu=True, pipelined=True) - beside == (COPIES - 1) * INPUTS + 3 * ROW
    ten, eleven = (costs.host(first, any_gpu=True, pipelined=False) for first in (10, 11))
    assert eleven - ten == LAYER


def test_a_device_that_is_a_cpu_has_neither_padding_nor_a_driver() -> None:
    costs = costs_of(make_profile(layers=(make_layer(padding=MIB),) * 3, output_padding=2 * MIB))
    gpu, cpu = (costs.column(4, on_gpu=on_gpu, pipelined=True) for on_gpu in (True, False))
    assert [a - b - DEVICE_OVERHEAD for a, b in zip(gpu, cpu, strict=True)] == [5 * MIB, 4 * MIB, 3 * MIB, 2 * MIB]


def test_a_copy_of_what_is_read_of_another_devices_cache() -> None:
    """Gemma 3n: two layers that keep a cache, then two that read the last one's. A row each is what goes between."""
    layers = tuple(LayerShape(key_width=512, value_width=512, weights=MIB) for _ in range(4))
    plain, reading = (
        costs_of(make_profile(layers=layers, caching_layers=own)).column(4, on_gpu=True, pipelined=False)
        for own in (0, 2)
    )
    cache = 4 * 8192 * 2 * 1024  # of one layer: cells of all slots, keys and values in F16
    assert [(a - b) // cache for a, b in zip(reading, plain, strict=True)] == [0, 0, 2, 1]


# --- asked again, asked wrongly ------------------------------------------------------------------------------


def test_what_was_worked_out_is_kept() -> None:
    costs = costs_of(make_profile())
    assert costs.column(20, on_gpu=True, pipelined=True) is costs.column(20, on_gpu=True, pipelined=True)
    assert costs.column(20, on_gpu=True, pipelined=False) != costs.column(20, on_gpu=True, pipelined=True)
    assert costs.estimate((17, 16)) is costs.estimate([17, 16], [])


def test_a_few_estimates_are_kept_and_no_more() -> None:
    costs = costs_of(make_profile())
    first = costs.estimate((1,))
    assert costs.estimate((1,)) is first
    for layers in range(2, 20):
        costs.estimate((layers,))
    assert costs.estimate((1,)) is not first
    assert costs.estimate((1,)) == first


def test_a_column_before_the_first_layer_is_empty() -> None:
    assert costs_of(make_profile()).column(0, on_gpu=True, pipelined=True) == ()


@pytest.mark.parametrize("layer", [-1, 34])
def test_there_are_no_other_layers(layer: int) -> None:
    costs = costs_of(make_profile())
    with pytest.raises(ValueError, match=rf"end is {layer}: this model has 33 layers \(with the output\), so 0 to 33"):
        costs.column(layer, on_gpu=True, pipelined=True)
    with pytest.raises(ValueError, match=f"first is {layer}: this model has"):
        costs.host(layer, any_gpu=True, pipelined=False)


@pytest.mark.parametrize("split", [(34,), (20, 20), (-1, 3), (1,) * (MAX_DEVICES + 1)])
def test_a_wrong_split(split: tuple[int, ...]) -> None:
    refusal = estimate(make_profile(), EngineOptions(), split)
    assert isinstance(refusal, EstimateRefusal)
    with pytest.raises(ValueError, match=re.escape(refusal.message)):
        costs_of(make_profile()).estimate(split)


@pytest.mark.parametrize(
    ("profile", "options"),
    [
        (make_profile(unsupported="it is a drawing"), EngineOptions()),
        (make_profile(context_length=4096), EngineOptions(context_length=8192)),
        (make_profile(), EngineOptions(cache_type=CacheType.Q8_0, flash_attention=False)),
        (make_profile(key_length=100), EngineOptions(cache_type=CacheType.Q4_0)),
    ],
)
def test_refuses_what_an_estimate_refuses(profile: ModelProfile, options: EngineOptions) -> None:
    refusal = StretchCosts.of(profile, options)
    assert isinstance(refusal, EstimateRefusal)
    assert refusal == estimate(profile, options) == estimate(profile, options, whole(profile))


# --- of every model ------------------------------------------------------------------------------------------

widths = st.sampled_from([0, 32, 64, 512, 1024])
layer_shapes = st.builds(
    LayerShape,
    weights=st.integers(0, 2**32),
    padding=st.integers(0, 2**16),
    key_width=widths,
    value_width=widths,
    windowed=st.booleans(),
    state=st.just(0) | st.integers(0, 2**24),
    heads=st.integers(0, 64),
    query_width=st.integers(0, 2**14),
    experts_used=st.just(0) | st.integers(0, 16),
    feed_forward=st.integers(0, 2**17),
    attention=st.integers(0, 2**16),
    mixing=st.just(0) | st.integers(0, 2**16),
    handed_on=st.just(0) | st.integers(0, 2**14),
    taken_in=st.just(0) | st.integers(0, 2**14),
)


@st.composite
def profiles(draw: st.DrawFn, most: int = 10) -> ModelProfile:
    """A model whose layers differ in all that they can differ in."""
    layers = tuple(draw(st.lists(layer_shapes, min_size=1, max_size=most)))
    flags = (
        "encoder", "no_flash_attention", "whole_last_layer", "whole_output", "padded_values", "positioned", "indexed",
        "pooling",
    )  # fmt: skip
    return make_profile(
        layers=layers,
        context_length=2**20,
        embedding_length=draw(st.sampled_from([32, 2048, 5376])),
        vocabulary=draw(st.integers(1, 2**18)),
        sliding_window=draw(st.sampled_from([0, 512, 4096])),
        windowed_key_length=draw(st.sampled_from([0, 64, 256])),
        windowed_value_length=draw(st.sampled_from([0, 64, 256])),
        output_weights=draw(st.integers(0, 2**33)),
        output_padding=draw(st.integers(0, 2**16)),
        shared_weights=draw(st.integers(0, 2**10)),
        tied_weights=draw(st.just(0) | st.integers(0, 2**33)),
        predicting=draw(st.integers(0, 1)) if len(layers) > 1 else 0,
        caching_layers=draw(st.just(0) | st.integers(0, len(layers))),
        per_layer_embedding=draw(st.sampled_from([0, 256])),
        streams=draw(st.sampled_from([1, 4])),
        caution=draw(st.sampled_from(["", "it is new"])),
        **{flag: draw(st.booleans()) for flag in draw(st.sets(st.sampled_from(flags), max_size=3))},
    )


@st.composite
def asked_options(draw: st.DrawFn, profile: ModelProfile) -> EngineOptions:
    """Options that llama.cpp does not refuse with `profile`."""
    flash_attention = draw(st.booleans())
    plain = st.sampled_from([CacheType.F32, CacheType.F16, CacheType.BF16])
    any_type = st.sampled_from(CacheType)
    keys = draw(any_type)
    values = draw(any_type if flash_attention and not profile.no_flash_attention else plain)
    if any(layer.attends and not layer.value_width for layer in profile.layers):
        keys = values  # latent attention
    return EngineOptions(
        context_length=draw(st.integers(128, 2**15)),
        slots=draw(st.integers(1, 64)),
        cache_type=keys,
        cache_type_v=values,
        flash_attention=flash_attention,
        kv_unified=draw(st.booleans()),
        batch=draw(st.integers(32, 4096)),
        micro_batch=draw(st.integers(32, 4096)),
        embeddings=draw(st.booleans()),
    )


def splits_of(profile: ModelProfile) -> st.SearchStrategy[tuple[int, ...]]:
    """Of all or of the last layers; some devices may get none."""
    most = profile.block_count + 1
    return st.lists(st.integers(0, most), max_size=MAX_DEVICES).map(
        lambda bounds: tuple(end - start for start, end in pairwise([*sorted(bounds), most]))
    )


kinds_of_devices = st.lists(st.sampled_from(DeviceKind), max_size=5).map(tuple)


@given(profiles(), st.data())
def test_each_device_takes_what_the_estimate_says(profile: ModelProfile, data: st.DataObject) -> None:
    options = data.draw(asked_options(profile))
    costs = costs_of(profile, options)
    for _ in range(3):
        check(costs, profile, options, data.draw(splits_of(profile)), data.draw(kinds_of_devices))


@given(profiles(most=4), st.data(), st.sampled_from([GPU, CPU]))
def test_every_stretch_that_an_estimate_can_show(profile: ModelProfile, data: st.DataObject, kind: DeviceKind) -> None:
    options = data.draw(asked_options(profile))
    costs = costs_of(profile, options)
    for split in every_split(costs.layers):
        check(costs, profile, options, split, (kind,) * len(split))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("published"), smollm2=Path())


@pytest.mark.parametrize("name", MODELS)
def test_of_published_models(published: Models, name: str) -> None:
    profile = published.profile(name)
    most = profile.block_count + 1
    for options in (EngineOptions(), EngineOptions(context_length=1000, slots=3, flash_attention=False)):
        costs = costs_of(profile, options)
        for split in [(), (most,), (most - most // 2, most // 2), (1,) * 8 + (most - 8,), (most // 3,) * 2, (1,) * 15]:
            check(costs, profile, options, split, ())
            check(costs, profile, options, split, (CPU,) * 3)
