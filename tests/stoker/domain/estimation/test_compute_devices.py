"""What a micro-batch takes on one of several devices, and what holds for every model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.cache import CacheShape
from stoker.domain.estimation.compute import MicroBatch
from stoker.domain.gguf import LayerShape
from stoker.domain.units import KIB, MIB
from tests.builders import make_layer, make_profile
from tests.stoker.domain.estimation.batches import ATTENTION, FEED_FORWARD, INDICES, ROW, batch_of

INPUTS = 8 * MIB + INDICES
LOGITS = 4 * 4 * 128_256
ANSWERED = 64 * KIB  # 4 rows of 4096 in F32


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize(
    ("start", "end", "peak"),
    [
        (0, 16, FEED_FORWARD),
        (16, 33, FEED_FORWARD),
        (16, 17, FEED_FORWARD - ROW),
        (31, 33, ATTENTION),
    ],
)
def test_a_residual_stream_goes_from_device_to_device(start: int, end: int, peak: int, copies: int) -> None:
    """The first one hands on what it computes, and keeps a place for it in a pipeline only."""
    row = ROW if start or copies > 1 else 0
    assert batch_of().device(start, end, copies=copies) == copies * (INPUTS + row) + peak


def test_the_output_layer_alone_reads_the_answered_rows() -> None:
    assert batch_of().device(32, 33, copies=4) == LOGITS + (3 + 4 + 1) * ANSWERED


def test_below_layers_on_the_host_it_is_given_what_they_end_with() -> None:
    assert batch_of().device(32, 33, copies=1) == LOGITS + 3 * ANSWERED + 2 * ROW
    whole = make_profile(whole_last_layer=True)  # gpt-oss: the residual stream and what the last experts say
    assert batch_of(whole).device(32, 33, copies=1) == LOGITS + 3 * ANSWERED + 2 * 5 * ROW


def test_the_output_layer_alone_may_have_to_read_all_rows() -> None:
    """Qwen3-Next and others choose the answered rows after their last norm."""
    whole = make_profile(whole_last_layer=True, whole_output=True)
    assert batch_of(whole).device(32, 33, copies=4) == LOGITS + 3 * ANSWERED + 5 * ROW
    assert batch_of(embeddings=True).device(32, 33, copies=4) == 4 * 512 * 128_256 + 8 * ROW


def test_embeddings_of_positions_are_a_row_more_for_the_first_device() -> None:
    encoder = make_profile(encoder=True, pooling=True, positioned=True)
    inputs = 512 * (2 * 512 + 40)
    batch = batch_of(encoder)
    assert batch.device(0, 33, copies=1) == inputs + FEED_FORWARD
    assert batch.device(0, 16, copies=4) == 4 * (inputs + 2 * ROW) + FEED_FORWARD
    assert batch.device(16, 33, copies=4) == 4 * (inputs + ROW) + FEED_FORWARD


def test_experts_below_layers_on_the_host_answer_elsewhere() -> None:
    """Inputs lie where their answers would have fitted; in a pipeline they do not."""
    batch = batch_of(make_profile(layers=(make_layer(experts_used=8),) * 4))
    assert batch.device(1, 3, copies=1) == INPUTS + ROW + FEED_FORWARD + 8 * ROW
    assert batch.device(1, 3, copies=4) == 4 * (INPUTS + ROW) + FEED_FORWARD
    assert batch.device(0, 3, copies=1) == INPUTS + FEED_FORWARD


# --- recurrent layers ----------------------------------------------------------------------------------------

RWKV = LayerShape(state=MIB, mixing=19 * 4096, handed_on=5120, taken_in=10_240)
JAMBA = LayerShape(state=MIB, mixing=40_000, handed_on=8192, taken_in=4096)  # a dense layer
ROUTED = JAMBA.model_copy(update={"handed_on": 0, "taken_in": 16_384})
DENSE = make_layer()  # attends, and has no state


@pytest.mark.parametrize(
    ("layers", "taken_in", "handed_on"),
    [
        ((DENSE,) * 3, 0, 0),
        ((RWKV,) * 3, 10_240, 5120),
        ((JAMBA, ROUTED, JAMBA), 16_384, 0),
        ((ROUTED, JAMBA, ROUTED), 4096, 8192),  # no more than a row, where nothing was handed on
        ((ROUTED, ROUTED, JAMBA), 4096, 0),
        ((DENSE, JAMBA, ROUTED), 0, 8192),
    ],
)
def test_recurrent_layers_hand_more_on(layers: tuple[LayerShape, ...], taken_in: int, handed_on: int) -> None:
    """Between first and second, and between second and third, each on a device of its own, beside the row."""
    batch = batch_of(make_profile(layers=layers), slots=1)
    found = batch.device(1, 2, copies=4) - batch.peak(1, 2, output=False, received=True)
    assert found == 4 * (batch.inputs(layers[1:2]) + ROW + 4 * 512 * (taken_in + handed_on))


def test_each_layer_without_a_norm_of_its_own_takes_a_row_more() -> None:
    olmo = make_profile(layers=(make_layer(taken_in=4096),) * 3)
    assert batch_of(olmo).device(1, 3, copies=4) - batch_of(make_profile(layers=3)).device(1, 3, copies=4) == 4 * ROW


def test_embeddings_of_each_layer_go_to_every_device() -> None:
    """Gemma 4 E2B: 256 elements a token and layer; the first device also projects them."""
    more = 4 * 512 * 256 * 32
    plain, gemma = (batch_of(make_profile(per_layer_embedding=size)) for size in (0, 256))
    assert gemma.device(16, 33, copies=4) - plain.device(16, 33, copies=4) == 4 * more
    assert gemma.device(0, 16, copies=4) - plain.device(0, 16, copies=4) == 6 * more


def test_four_streams_go_from_device_to_device() -> None:
    """Gemma 3n: ten rows to a later device, and six more at every moment."""
    plain, gemma = (batch_of(make_profile(streams=streams)) for streams in (1, 4))
    assert gemma.device(16, 33, copies=4) - plain.device(16, 33, copies=4) == (4 * 9 + 6) * ROW


def test_a_hybrids_attention_is_turned_back_on_the_other_side() -> None:
    """One row more, where values are quantised and any layer is recurrent."""
    hybrid = make_profile(layers=(make_layer(state=MIB), make_layer(), make_layer()))
    for model, rows in ((hybrid, 1), (make_profile(layers=3), 0)):
        plain, turned = (batch_of(model, slots=1, cache_type=kind) for kind in (CacheType.F16, CacheType.Q8_0))
        assert turned.device(1, 3, copies=1) - plain.device(1, 3, copies=1) == 80 * KIB + rows * ROW


# --- what holds for every model ----------------------------------------------------------------------------

some_layers = st.lists(
    st.builds(
        make_layer,
        key_width=st.integers(0, 4096),
        value_width=st.integers(0, 4096),
        heads=st.integers(0, 128),
        query_width=st.integers(0, 2**16),
        experts_used=st.integers(0, 16),
        feed_forward=st.integers(0, 2**18),
        attention=st.integers(0, 2**17),
        mixing=st.integers(0, 2**17),
        state=st.integers(0, 2**22),
        windowed=st.booleans(),
    ),
    min_size=1,
    max_size=6,
).map(tuple)
shapes = st.builds(
    CacheShape,
    streams=st.just(4),
    cells=st.integers(8, 512).map(lambda steps: 256 * steps),
    windowed=st.integers(1, 8).map(lambda steps: 256 * steps),
)
options = st.builds(EngineOptions, flash_attention=st.booleans(), micro_batch=st.integers(32, 4096))


@given(some_layers, shapes, options, st.data())
def test_more_layers_on_a_device_never_take_less(
    layers: tuple[LayerShape, ...], shape: CacheShape, asked: EngineOptions, data: st.DataObject
) -> None:
    batch = MicroBatch.of(make_profile(layers=layers), asked, shape, 8192)
    bounds = st.integers(0, len(layers))
    outer, start, end, last = sorted(data.draw(st.tuples(bounds, bounds, bounds, bounds)))
    received, output = data.draw(st.booleans()), data.draw(st.booleans())
    assert batch.inputs(layers[start:end]) <= batch.inputs(layers[outer:last])
    assert batch.converted(layers[start:end]) <= batch.converted(layers[outer:last])
    few = batch.peak(start, end, output=False, received=received)
    assert few <= batch.peak(outer, last, output=output, received=received)
    assert few <= batch.peak(start, end, output=output, received=False)


@given(some_layers, shapes, options)
def test_flash_attention_never_takes_more(
    layers: tuple[LayerShape, ...], shape: CacheShape, asked: EngineOptions
) -> None:
    profile = make_profile(layers=layers)
    with_it, without = (
        MicroBatch.of(profile, asked.model_copy(update={"flash_attention": on}), shape, 8192) for on in (True, False)
    )
    for start in range(len(layers) + 1):
        for copies in (1, 4):
            end = len(layers) + 1
            assert with_it.device(start, end, copies=copies) <= without.device(start, end, copies=copies)
