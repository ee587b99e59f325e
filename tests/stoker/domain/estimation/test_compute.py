"""What one micro-batch takes at its widest moment: Llama 3.1 8B by hand, and how the parts depend on the options."""

from typing import Any

import pytest

from stoker.domain.deployments import CacheType
from stoker.domain.gguf import LayerShape
from stoker.domain.units import KIB, MIB
from tests.builders import make_layer, make_profile
from tests.stoker.domain.estimation.batches import ATTENTION, FEED_FORWARD, INDICES, ROW
from tests.stoker.domain.estimation.batches import batch_of as of


def test_llama_3_1_8b() -> None:
    """4 slots of 8192: a mask of 512 x 8192 F16, and the feed-forward part of any layer but the last in F32."""
    batch = of()
    assert (batch.tokens, batch.rows, batch.residual) == (512, 4, ROW)
    assert batch.inputs(make_profile().layers) == 8 * MIB + INDICES
    assert batch.peak(0, 33, output=True, received=False) == FEED_FORWARD
    assert batch.device(0, 33, copies=1) == 8 * MIB + INDICES + FEED_FORWARD
    assert batch.results == 4 * 4 * 128_256  # a row for each slot's last token


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


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (64, 16 * KIB + 16 * KIB),  # keys with 64 x 64 F32, values with as many
        (128, 64 * KIB + 16 * KIB),  # keys with 128 x 128
        (192, 16 * KIB + 16 * KIB),  # 64 is the largest power of two in 192
        (256, 256 * KIB + 16 * KIB),
        (96, 0),  # not in pieces of 64
        (80, 0),
    ],
)
def test_what_is_quantised_is_turned_before(head: int, expected: int) -> None:
    """llama_kv_cache::build_input_k_rot, build_input_v_rot."""
    model = make_profile(key_length=head, value_length=head)
    plain = of(model).inputs(model.layers)
    assert of(model, cache_type=CacheType.Q8_0).inputs(model.layers) - plain == expected
    assert of(model, cache_type=CacheType.BF16).inputs(model.layers) == plain


def test_keys_and_values_are_turned_each_for_its_type() -> None:
    plain = of().inputs([make_layer()])
    keys = of(cache_type=CacheType.Q8_0, cache_type_v=CacheType.F16).inputs([make_layer()])
    values = of(cache_type=CacheType.F16, cache_type_v=CacheType.Q8_0).inputs([make_layer()])
    assert (keys - plain, values - plain) == (64 * KIB, 16 * KIB)


def test_a_windowed_cache_has_rotations_of_its_own() -> None:
    """Its heads may have another length."""
    windowed = make_layer(windowed=True)
    model = make_profile(
        layers=(make_layer(), windowed), sliding_window=1024, windowed_key_length=256, windowed_value_length=80
    )
    plain, turned = of(model), of(model, cache_type=CacheType.Q4_0)
    assert turned.inputs([windowed]) - plain.inputs([windowed]) == 256 * KIB
    assert turned.inputs(model.layers) - plain.inputs(model.layers) == 80 * KIB + 256 * KIB
    assert turned.inputs([LayerShape(state=1000)]) == plain.inputs([LayerShape(state=1000)])


def test_an_encoder_masks_its_own_tokens() -> None:
    layer = LayerShape(weights=1, heads=12)
    plain = of(make_profile(encoder=True, layers=(layer,)))
    windowed = of(make_profile(encoder=True, layers=(layer,), sliding_window=128))
    assert plain.inputs([layer]) == 512 * 2 * 512 + INDICES
    assert windowed.inputs([layer]) == 512 * 2 * 512 * 2 + INDICES


# --- the widest moment -----------------------------------------------------------------------------------


def test_the_widest_layer_of_a_device_decides() -> None:
    narrow, wide = make_layer(feed_forward=20_000), make_layer(feed_forward=50_000)
    batch = of(make_profile(layers=(narrow, wide, narrow, make_layer())))
    assert batch.peak(0, 3, output=False, received=False) == 4 * 512 * 50_000
    assert batch.peak(0, 1, output=False, received=False) == 4 * 512 * 20_000
    assert batch.peak(0, 0, output=False, received=False) == 0


@pytest.mark.parametrize("part", ["attention", "mixing"])
def test_the_widest_part_of_a_layer_decides(part: str) -> None:
    batch = of(make_profile(layers=(make_layer(**{part: 60_000}), make_layer())))
    assert batch.peak(0, 1, output=False, received=False) == 4 * 512 * 60_000


def test_of_the_last_layer_only_the_answered_rows_go_on() -> None:
    """All tokens attend; an embedding answers them all, and some architectures cut later."""
    cut, whole = of(), of(make_profile(whole_last_layer=True))
    assert cut.peak(31, 32, output=False, received=False) == ATTENTION
    assert cut.peak(30, 31, output=False, received=False) == FEED_FORWARD
    assert whole.peak(31, 32, output=False, received=False) == FEED_FORWARD
    assert of(embeddings=True).peak(31, 32, output=False, received=False) == FEED_FORWARD


def test_layers_for_prediction_come_after_the_last() -> None:
    batch = of(make_profile(layers=(*(make_layer(),) * 3, LayerShape()), predicting=1))
    assert batch.peak(2, 4, output=False, received=False) == ATTENTION
    assert batch.peak(1, 4, output=False, received=False) == FEED_FORWARD
    assert batch.peak(3, 4, output=False, received=False) == 0


def test_what_the_first_layer_received_is_among_the_inputs() -> None:
    batch = of()
    assert batch.peak(5, 6, output=False, received=True) == FEED_FORWARD - ROW
    assert batch.peak(5, 7, output=False, received=True) == FEED_FORWARD, "the second has a row of its own"
    assert batch.peak(31, 32, output=False, received=True) == ATTENTION


def test_logits_may_be_the_widest_moment() -> None:
    """Gemma's vocabulary, a row for each of 256 slots: 256 MiB, and three rows of 4096 for each: 12 MiB."""
    batch = of(make_profile(vocabulary=262_144), slots=256)
    assert batch.peak(0, 33, output=True, received=False) == 268 * MIB
    assert batch.peak(0, 32, output=False, received=False) == FEED_FORWARD


def test_embedding_has_results_of_every_token() -> None:
    embedding = of(embeddings=True)
    assert embedding.peak(0, 33, output=True, received=False) == 4 * 512 * 128_256 + 3 * ROW
    assert embedding.results == 4 * 512 * (128_256 + 4096)
    pooling = make_profile(pooling=True)
    assert of(pooling) == embedding._replace(profile=pooling, options=of(pooling).options)


def test_an_encoder_has_no_logits() -> None:
    encoder = make_profile(encoder=True, pooling=True)
    assert of(encoder).peak(0, 33, output=True, received=False) == FEED_FORWARD


def test_without_flash_attention_every_head_scores_every_cell() -> None:
    """32 heads x 8192 cells x 512 tokens in F32 are 512 MiB, beside the queries twice, and four rows."""
    found = of(flash_attention=False).peak(0, 33, output=True, received=False)
    assert found == 512 * MIB + 6 * ROW
    # of one slot: a micro-batch of four slots' tokens looks at each slot's cells only
    assert found == of(flash_attention=False, slots=1).peak(0, 33, output=True, received=False)
    assert found == of(flash_attention=False, slots=1, kv_unified=True).peak(0, 33, output=True, received=False)


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        ({"query_width": 8192}, 2 * 2 + 4),  # queries wider than the embedding
        ({"query_width": 1024}, 6),  # no narrower than a row
        ({"experts_used": 8}, 6 + 7),  # what the experts before answered, but one, is a hole
        ({"value_width": 0, "key_width": 576}, 6 + 4 * 8192 * 2 * 576 / ROW),  # latent: the keys, turned round
    ],
)
def test_what_stands_beside_the_scores(changed: dict[str, int], rows: float) -> None:
    batch = of(make_profile(layers=(make_layer(**changed),) * 2), flash_attention=False)
    assert batch.peak(0, 1, output=False, received=False) == 512 * MIB + rows * ROW


def test_states_of_all_slots_but_one_are_read_joined_and_written() -> None:
    layers = tuple(make_layer(state=MIB, mixing=mixing) for mixing in (10_000, 0, 10_000))
    one, four = (of(make_profile(layers=layers), slots=slots) for slots in (1, 4))
    assert one.peak(0, 1, output=False, received=False) == FEED_FORWARD
    assert four.peak(0, 1, output=False, received=False) == FEED_FORWARD + 3 * 3 * MIB
    assert four.peak(1, 2, output=False, received=False) == FEED_FORWARD
