"""What one micro-batch takes at its widest moment: Llama 3.1 8B by hand, and how the parts depend on the options."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.architectures.activations import RESIDUALS
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.cache import CacheShape, cache_shape
from stoker.domain.estimation.compute import MicroBatch
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.units import KIB, MIB
from tests.builders import make_layer, make_profile

INDICES = 20 * KIB  # 40 bytes for each of 512 tokens
RESIDUAL = 8 * MIB  # 512 rows of 4096 in F32


def of(profile: ModelProfile | None = None, context: int = 8192, **options: Any) -> MicroBatch:
    profile = profile or make_profile()
    asked = EngineOptions(**options)
    return MicroBatch.of(profile, asked, cache_shape(profile, asked, context), context)


def test_llama_3_1_8b() -> None:
    """4 slots of 8192: a mask of 512 x 8192 F16, and gate, up and product of the feed-forward part (14,336) in F32."""
    batch = of()
    assert (batch.tokens, batch.residual) == (512, RESIDUAL)
    assert batch.inputs(make_profile().layers) == 8 * MIB + INDICES
    assert batch.peak(make_profile().layers, output=True) == 84 * MIB + RESIDUALS * RESIDUAL
    assert batch.logits == batch.results == 4 * 4 * 128_256  # a row for each slot's last token


# --- tokens ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 512),
        ({"micro_batch": 256}, 256),
        ({"micro_batch": 1024, "batch": 512}, 512),  # the batch bounds the micro-batch
        ({"slots": 1, "context": 256}, 256),  # so does the context
        ({"slots": 2, "context": 128, "micro_batch": 1024}, 256),
        ({"slots": 7}, 518),  # 74 of each slot
        ({"slots": 7, "embeddings": True}, 518),
    ],
)
def test_tokens(options: dict[str, Any], tokens: int) -> None:
    assert of(**options).tokens == tokens


@pytest.mark.parametrize("context", [128, 200])
def test_a_causal_model_is_never_sent_more_than_its_context(context: int) -> None:
    """llama_context: n_batch is bounded by the context asked for, before that is rounded up."""
    assert of(context=context, slots=1).tokens == context


@pytest.mark.parametrize("context", [128, 200])
def test_an_encoder_takes_as_much_as_the_rounded_context_holds(context: int) -> None:
    assert of(make_profile(encoder=True, pooling=True), context=context, slots=1).tokens == 256


# --- inputs ----------------------------------------------------------------------------------------------


def test_each_kind_of_cache_has_its_mask() -> None:
    """With a window of 1024 and 512 tokens at once, 1536 cells."""
    full, windowed = make_layer(), make_layer(windowed=True)
    batch = of(make_profile(layers=(full, windowed), sliding_window=1024))
    assert batch.inputs([full]) == 512 * 2 * 8192 + INDICES
    assert batch.inputs([windowed]) == 512 * 2 * 1536 + INDICES
    assert batch.inputs([full, windowed, full]) == 512 * 2 * (8192 + 1536) + INDICES


def test_layers_that_do_not_attend_have_no_mask() -> None:
    assert of().inputs([LayerShape(state=1000)]) == of().inputs([]) == INDICES


def test_a_shared_cache_has_a_mask_over_all_slots() -> None:
    assert of(kv_unified=True).inputs([make_layer()]) == 512 * 2 * 4 * 8192 + INDICES
    assert of(embeddings=True).inputs([make_layer()]) == 512 * 2 * 4 * 8192 + INDICES


def test_without_flash_attention_masks_are_f32_and_values_are_written_one_by_one() -> None:
    layers = [make_layer(), make_layer(value_width=512)]
    assert of(flash_attention=False).inputs(layers) == 512 * (4 * 8192 + 8 * 1024) + INDICES


def test_an_encoder_masks_its_own_tokens() -> None:
    layer = LayerShape(weights=1, heads=12)
    plain = of(make_profile(encoder=True, layers=(layer,)))
    windowed = of(make_profile(encoder=True, layers=(layer,), sliding_window=128))
    assert plain.inputs([layer]) == 512 * 2 * 512 + INDICES
    assert windowed.inputs([layer]) == 512 * 2 * 512 * 2 + INDICES


# --- the widest moment -----------------------------------------------------------------------------------


def test_the_widest_layer_of_a_device_decides() -> None:
    narrow, wide = make_layer(activations=1000), make_layer(activations=50_000)
    batch = of()
    assert batch.peak([narrow, wide, narrow], output=False) == batch.peak([wide], output=False)
    assert batch.peak([wide], output=False) - batch.peak([narrow], output=False) == 4 * 512 * 49_000
    assert batch.peak([], output=False) == 0


def test_logits_may_be_the_widest_moment() -> None:
    """Gemma's vocabulary, a row for each of 256 slots: 256 MiB."""
    gemma = make_profile(vocabulary=262_144)
    batch = of(gemma, slots=256)
    assert batch.peak(gemma.layers, output=True) == 256 * MIB + RESIDUALS * RESIDUAL
    assert batch.peak(gemma.layers, output=False) == 84 * MIB + RESIDUALS * RESIDUAL
    assert batch.peak([], output=True) == 256 * MIB + RESIDUALS * RESIDUAL


def test_embedding_has_results_of_every_token() -> None:
    embedding = of(embeddings=True)
    assert embedding.logits == 4 * 512 * 128_256
    assert embedding.results == 4 * 512 * (128_256 + 4096)
    assert of(make_profile(pooling=True)) == embedding._replace(options=EngineOptions())


def test_an_encoder_has_no_logits() -> None:
    assert of(make_profile(encoder=True, pooling=True)).logits == 0


def test_without_flash_attention_every_head_scores_every_cell() -> None:
    """32 heads x 8192 cells x 512 tokens in F32 are 512 MiB, beside rows of the residual stream and the queries."""
    layers = make_profile().layers
    found = of(flash_attention=False).peak(layers, output=False)
    assert found - 512 * MIB in range(RESIDUALS * RESIDUAL, 6 * RESIDUAL)
    # of one slot: a micro-batch of four slots' tokens looks at each slot's cells only
    assert found == of(flash_attention=False, slots=1).peak(layers, output=False)
    assert found == of(flash_attention=False, slots=1, kv_unified=True).peak(layers, output=False)


def test_a_large_state_is_the_widest_moment() -> None:
    plain, recurrent, larger = (make_layer(state=size) for size in (0, 64 * MIB, 65 * MIB))
    batch = of(slots=2)
    assert batch.peak([recurrent], output=False) > batch.peak([plain], output=False)
    more = batch.peak([larger], output=False) - batch.peak([recurrent], output=False)
    assert more >= 2 * MIB, "of each slot"


# --- what holds for every model ----------------------------------------------------------------------------

some_layers = st.lists(
    st.builds(
        make_layer,
        key_width=st.integers(0, 4096),
        value_width=st.integers(0, 4096),
        heads=st.integers(0, 128),
        query_width=st.integers(0, 2**16),
        activations=st.integers(0, 2**18),
        state=st.integers(0, 2**22),
        windowed=st.booleans(),
    ),
    max_size=5,
)
shapes = st.builds(
    CacheShape,
    streams=st.just(4),
    cells=st.integers(8, 512).map(lambda steps: 256 * steps),
    windowed=st.integers(1, 8).map(lambda steps: 256 * steps),
)
options = st.builds(EngineOptions, flash_attention=st.booleans(), micro_batch=st.integers(32, 4096))


@given(some_layers, some_layers, shapes, options, st.booleans())
def test_more_layers_on_a_device_never_take_less(
    layers: list[LayerShape], more: list[LayerShape], shape: CacheShape, asked: EngineOptions, output: bool
) -> None:
    batch = MicroBatch.of(make_profile(), asked, shape, 8192)
    assert batch.inputs(layers) <= batch.inputs([*layers, *more])
    assert batch.peak(layers, output=False) <= batch.peak([*layers, *more], output=output)
    assert batch.converted(layers) <= batch.converted([*layers, *more])


@given(some_layers, shapes, options)
def test_flash_attention_never_takes_more(layers: list[LayerShape], shape: CacheShape, asked: EngineOptions) -> None:
    with_it, without = (
        MicroBatch.of(make_profile(), asked.model_copy(update={"flash_attention": on}), shape, 8192)
        for on in (True, False)
    )
    assert with_it.inputs(layers) <= without.inputs(layers)
    assert with_it.peak(layers, output=True) <= without.peak(layers, output=True)
