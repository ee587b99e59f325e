"""The estimate as a whole: Llama 3.1 8B by hand, where everything lies, refusals, and what holds for every model."""

from typing import Any

import pytest

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.compute import COPIES
from stoker.domain.estimation.estimate import (
    DEVICE_OVERHEAD,
    DRIVER_OVERHEAD,
    MAX_DEVICES,
    PROCESS_OVERHEAD,
    PROMPT_CACHE,
    TOKENIZER_OVERHEAD,
    default_context,
    estimate,
)
from stoker.domain.estimation.types import DeviceMemory, EstimateRefusal, HostMemory, MemoryEstimate
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.units import GIB, KIB, MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_layer, make_profile

ACCELERATORS = [kind for kind in DeviceKind if kind is not DeviceKind.CPU]


def estimated(
    profile: ModelProfile,
    options: EngineOptions | None = None,
    split: tuple[int, ...] = (),
    kinds: tuple[DeviceKind, ...] = (),
) -> MemoryEstimate:
    outcome = estimate(profile, options or EngineOptions(), split, kinds)
    assert isinstance(outcome, MemoryEstimate), outcome
    return outcome


def refused(profile: ModelProfile, options: dict[str, Any] | None = None, split: tuple[int, ...] = ()) -> str:
    outcome = estimate(profile, EngineOptions(**options or {}), split)
    assert isinstance(outcome, EstimateRefusal), outcome
    return outcome.message


# --- Llama 3.1 8B, 4 slots of 8192, worked by hand -----------------------------------------------------------

INPUTS = 8 * MIB + 20 * KIB  # a mask of 512 x 8192 F16, 40 bytes a token
ROW = 8 * MIB  # 512 rows of 4096 in F32
WIDEST = 108 * MIB  # 512 x (3 x 14,336 + 3 x 4096) in F32
LAYERS = 32 * 125 * MIB
RESULTS = 4 * 4 * 128_256
AT_REST = PROCESS_OVERHEAD + PROMPT_CACHE + TOKENIZER_OVERHEAD * 128_256


def test_on_one_gpu() -> None:
    assert estimated(make_profile(), split=(33,)) == MemoryEstimate(
        context_length=8192,
        slots=4,
        devices=(
            DeviceMemory(
                layers=33,
                weights=LAYERS + 411 * MIB,
                cache=4 * GIB,  # 128 KiB a token
                compute=INPUTS + WIDEST,
                overhead=DEVICE_OVERHEAD,
            ),
        ),
        host=HostMemory(
            weights=282 * MIB, compute=INPUTS + 2 * ROW, output=RESULTS, overhead=AT_REST + DRIVER_OVERHEAD
        ),
    )


def test_on_the_cpu_alone() -> None:
    assert estimated(make_profile()) == MemoryEstimate(
        context_length=8192,
        slots=4,
        host=HostMemory(
            layers=33,
            weights=282 * MIB + LAYERS + 411 * MIB,
            cache=4 * GIB,
            compute=INPUTS + WIDEST + 3 * ROW,
            output=RESULTS,
            overhead=AT_REST + 2 * 512 * (14_336 + 4096),  # a third of the widest moment once more, as F16
        ),
    )


def test_on_two_gpus_in_a_pipeline() -> None:
    found = estimated(make_profile(), split=(17, 16))
    first, second = found.devices
    assert (first.layers, first.weights, first.cache) == (17, 17 * 125 * MIB, 17 * 128 * MIB)
    assert (second.layers, second.weights, second.cache) == (16, (15 * 125 + 411) * MIB, 15 * 128 * MIB)
    assert first.compute == second.compute == COPIES * (INPUTS + ROW) + WIDEST
    assert found.host.compute == COPIES * INPUTS + 5 * ROW
    assert found.host.weights == 282 * MIB


def test_layers_that_stay_on_the_host_end_the_pipeline() -> None:
    found = estimated(make_profile(), split=(10, 10))
    assert [device.layers for device in found.devices] == [10, 10]
    assert {device.compute for device in found.devices} == {INPUTS + ROW + WIDEST}, "no copies; each takes a row in"
    assert (found.host.weights, found.host.cache) == ((282 + 13 * 125) * MIB, 13 * 128 * MIB)
    assert found.host.compute == INPUTS + WIDEST + 3 * ROW


def test_the_output_layer_alone() -> None:
    found = estimated(make_profile(), split=(1,))
    assert found.devices == (
        DeviceMemory(
            layers=1,
            weights=411 * MIB,
            compute=4 * 4 * 128_256 + 3 * 64 * KIB + 2 * 8 * MIB,  # logits, rows of the four answers, and of all tokens
            overhead=DEVICE_OVERHEAD,
        ),
    )
    assert found.host.weights == 282 * MIB + LAYERS


@pytest.mark.parametrize("kind", ACCELERATORS)
def test_every_accelerator_is_estimated_alike(kind: DeviceKind) -> None:
    assert estimated(make_profile(), split=(33,), kinds=(kind,)) == estimated(make_profile(), split=(33,))


def test_a_cpu_behind_an_rpc_server_has_neither_padding_nor_a_driver() -> None:
    padded = make_profile(layers=(make_layer(padding=MIB),) * 2, output_padding=MIB)
    gpu, cpu = (estimated(padded, split=(3,), kinds=(kind,)) for kind in (DeviceKind.CUDA, DeviceKind.CPU))
    assert gpu.devices[0].weights - cpu.devices[0].weights == 3 * MIB
    assert (gpu.devices[0].overhead, cpu.devices[0].overhead) == (DEVICE_OVERHEAD, 0)
    assert gpu.host.overhead - cpu.host.overhead == DRIVER_OVERHEAD
    assert cpu.devices[0].cache == gpu.devices[0].cache


def test_tied_embeddings_lie_beside_the_output_and_once_in_ram() -> None:
    tied = make_profile(tied_weights=282 * MIB, output_weights=MIB)
    assert estimated(tied, split=(33,)).devices[0].weights == LAYERS + 283 * MIB
    assert estimated(tied, split=(33,)).host.weights == 282 * MIB
    assert estimated(tied).host.weights == LAYERS + 283 * MIB
    first, second = estimated(tied, split=(16, 17)).devices
    assert (first.weights, second.weights) == (LAYERS // 2, LAYERS // 2 + 283 * MIB)


def test_every_device_with_a_layer_has_the_rope_factors() -> None:
    shared = make_profile(shared_weights=256)
    found = estimated(shared, split=(16, 16, 1))
    plain = estimated(make_profile(), split=(16, 16, 1))
    assert [a.weights - b.weights for a, b in zip(found.devices, plain.devices, strict=True)] == [256, 256, 0]
    assert found.host.weights == plain.host.weights
    assert estimated(shared, split=(3,)).host.weights - estimated(make_profile(), split=(3,)).host.weights == 256


def test_embedding_hands_a_result_of_every_token_over() -> None:
    assert estimated(make_profile(), EngineOptions(embeddings=True)).host.output == 4 * 512 * (128_256 + 4096)


def test_an_encoder_keeps_no_cache() -> None:
    """BERT base: 512 tokens, whose mask is 512 x 512; its feed-forward part of 3072 with two rows of 768."""
    layer = LayerShape(weights=MIB, heads=12, query_width=768, feed_forward=3072 + 2 * 768, attention=4 * 768)
    encoder = make_profile(layers=(layer,) * 12, embedding_length=768, encoder=True, pooling=True, positioned=True)
    found = estimated(encoder, split=(13,))
    inputs = 512 * (2 * 512 + 40)
    assert (found.devices[0].cache, found.devices[0].compute) == (0, inputs + 4 * 512 * 4608)
    assert (found.host.cache, found.host.compute) == (0, inputs + 3 * 4 * 512 * 768)


def test_grok_computes_without_flash_attention_whatever_is_asked_for() -> None:
    grok = make_profile(no_flash_attention=True)
    asked, off = (estimated(grok, EngineOptions(flash_attention=on), (33,)) for on in (True, False))
    assert asked == off
    assert asked == estimated(make_profile(), EngineOptions(flash_attention=False), (33,))


def test_a_caution_is_handed_on() -> None:
    assert estimated(make_profile(caution="it is novel")).caution == "it is novel"


# --- the context ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "asked", "given"),
    [(131_072, None, 8192), (2048, None, 2048), (0, None, 8192), (131_072, 131_072, 131_072), (0, 500_000, 500_000)],
)
def test_context(trained: int, asked: int | None, given: int) -> None:
    profile = make_profile(context_length=trained)
    assert estimated(profile, EngineOptions(context_length=asked)).context_length == given
    assert default_context(profile) == (trained and min(trained, 8192)) or 8192


# --- refusals ------------------------------------------------------------------------------------------


def test_more_context_than_the_model_was_trained_for() -> None:
    told = refused(make_profile(context_length=4096), {"context_length": 8192})
    assert told == (
        "context_length 8192 is more than the 4096 tokens that the model was trained for: ask for 4096 or less"
    )


@pytest.mark.parametrize(
    ("changed", "options", "field"),
    [
        ({"key_length": 80}, {"cache_type": "q8_0"}, "cache_type q8_0"),
        ({"value_length": 80}, {"cache_type": "q8_0"}, "cache_type_v q8_0"),
        ({"windowed_key_length": 80}, {"cache_type": "q8_0"}, "cache_type q8_0"),
        ({"windowed_value_length": 80}, {"cache_type": "q8_0"}, "cache_type_v q8_0"),
        ({"value_length": 80}, {"cache_type_v": "q4_0"}, "cache_type_v q4_0"),
    ],
)
def test_a_quantised_cache_needs_whole_blocks(changed: dict[str, int], options: dict[str, str], field: str) -> None:
    told = refused(make_profile(**changed), options)
    assert told.startswith(f"{field} stores 32 elements at once, and this model's ")
    assert "80" in told
    assert told.endswith("ask for f16 or bf16")
    assert estimated(make_profile(**changed)).host.cache > 0


def test_only_keys_or_values_may_be_quantised() -> None:
    assert estimated(
        make_profile(value_length=80), EngineOptions(cache_type=CacheType.Q8_0, cache_type_v=CacheType.F16)
    )


@pytest.mark.parametrize("options", [{"cache_type": "q8_0"}, {"cache_type_v": "q4_0"}])
def test_quantised_values_need_flash_attention(options: dict[str, str]) -> None:
    assert "need flash attention" in refused(make_profile(), {"flash_attention": False} | options)
    assert "need flash attention" in refused(make_profile(no_flash_attention=True), options)
    assert estimated(make_profile(), EngineOptions.model_validate({"flash_attention": True} | options))


def test_quantised_keys_do_not_need_it() -> None:
    options = EngineOptions(flash_attention=False, cache_type=CacheType.Q8_0, cache_type_v=CacheType.F16)
    assert estimated(make_profile(), options).host.cache > 0


def test_compressed_keys_and_their_values_have_one_type() -> None:
    latent = make_profile(layers=(make_layer(key_width=576, value_width=0),), key_length=576, value_length=512)
    told = refused(latent, {"cache_type": "f16", "cache_type_v": "q8_0"})
    assert "cache_type_v must be f16 too, and is q8_0" in told
    assert estimated(latent, EngineOptions(cache_type=CacheType.Q8_0))


def test_an_unsupported_model_says_why() -> None:
    assert refused(make_profile(unsupported="it is a speech model")) == "it is a speech model"


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ((34,), "the split is 34: layers a device, together at most 33 (with the output)"),
        ((17, 17), "the split is 17,17: "),
        ((34, -1), "the split is 34,-1: "),
        ((1,) * (MAX_DEVICES + 1), f"the split names {MAX_DEVICES + 1} devices: llama.cpp takes at most {MAX_DEVICES}"),
    ],
)
def test_splits_that_make_no_sense(split: tuple[int, ...], told: str) -> None:
    assert refused(make_profile(), split=split).startswith(told)


def test_layers_that_read_caches_of_another_device_get_copies_of_them() -> None:
    """Gemma 4: of 6 layers the last two read the caches of layers 2 (windowed) and 3 (full)."""
    layers = tuple(make_layer(windowed=index in (0, 2, 4)) for index in range(4))
    readers = tuple(make_layer(key_width=0, value_width=0, windowed=windowed) for windowed in (True, False))
    options = EngineOptions(context_length=8192, slots=1)
    alone, sharing = (
        estimated(make_profile(layers=(*layers, *readers), sliding_window=512, caching_layers=own), options, (4, 3))
        for own in (0, 4)
    )
    windowed, full = 1024 * 2 * 2 * 1024, 8192 * 2 * 2 * 1024  # cells, keys and values, bytes, elements
    assert sharing.devices[1].compute - alone.devices[1].compute == 4 * (windowed + full)
    assert sharing.devices[0] == alone.devices[0]


def test_an_unknown_architecture_gets_a_margin() -> None:
    known, unknown = (estimated(make_profile(caution=caution), split=(33,)) for caution in ("", "not known"))
    assert unknown.devices[0].compute == known.devices[0].compute * 5 // 4
    assert unknown.devices[0].cache == known.devices[0].cache
    assert unknown.caution == "not known"
