"""What a profile says of each layer: its moments, what goes from device to device, and blocks for prediction."""

import pytest

from stoker.domain.architectures import families
from stoker.domain.architectures.describe import describe
from stoker.domain.gguf import LayerShape, TensorInfo
from tests.stoker.domain.architectures.headers import layers, metadata, profile_of, tensor


def matrices(layer: int, **shapes: tuple[int, ...]) -> list[TensorInfo]:
    return [tensor(f"blk.{layer}.{name}.weight", *shape) for name, shape in shapes.items()]


def test_a_layer_with_experts() -> None:
    """64 elements for 4 heads of 32: queries of 128. Each token is sent to 2 of 8 experts of 96."""
    found = describe(
        metadata("qwen3moe", block_count=1, attention__key_length=32, expert_used_count=2),
        matrices(
            0,
            attn_norm=(64,),
            attn_q=(64, 128),
            attn_k=(64, 64),
            ffn_norm=(64,),
            ffn_gate_inp=(64, 8),
            ffn_gate_exps=(64, 96, 8),
            ffn_down_exps=(96, 64, 8),
        ),
    ).layers[0]
    assert (found.heads, found.query_width, found.experts_used) == (4, 128, 2)
    assert found.feed_forward == 2 * 3 * 96 + 2 * 8 + 3 * 64 + (128 - 64)
    assert found.attention == 2 * 128 + 64 + 64


def test_the_experts_of_each_layer_are_counted_apart() -> None:
    found = profile_of("llama", 2, expert_used_count=[2, 4])
    assert [layer.experts_used for layer in found.layers] == [2, 4]


MAMBA = {"ssm_conv1d": (4, 128), "ssm_out": (128, 64)}


@pytest.mark.parametrize(
    ("architecture", "handed_on", "taken_in"), [("mamba", 128, 256), ("jamba", 128, 256), ("plamo2", 0, 0)]
)
def test_only_some_hand_more_on_than_the_residual_stream(architecture: str, handed_on: int, taken_in: int) -> None:
    found = describe(
        metadata(architecture, block_count=1, ssm__conv_kernel=4, ssm__inner_size=128, ssm__state_size=16),
        matrices(0, **MAMBA),
    ).layers[0]
    assert (found.mixing, found.handed_on, found.taken_in) == (4 * 128 + 128 + 2 * 64, handed_on, taken_in)


@pytest.mark.parametrize(
    ("architecture", "last_layer", "output"),
    [
        ("llama", False, False),
        ("mamba", False, False),
        ("qwen3next", True, True),
        ("gpt-oss", True, False),  # the answered rows are chosen before the output norm
        ("novel", True, True),  # nothing is known of it
    ],
)
def test_where_the_answered_rows_are_chosen(architecture: str, last_layer: bool, output: bool) -> None:
    found = profile_of(architecture, 2)
    assert (found.whole_last_layer, found.whole_output) == (last_layer, output)


# --- blocks for multi-token prediction --------------------------------------------------------------------


def test_blocks_for_prediction_are_counted_but_not_loaded() -> None:
    found = profile_of("glm4moe", 3, nextn_predict_layers=1)
    assert [layer.weights for layer in found.layers] == [32_768, 32_768, 0]
    assert (found.unused_weights, found.block_count) == (32_768, 3)


PREDICTION = {
    "attn_norm.weight": (64,),
    "attn_q.weight": (64, 64),
    "attn_k.weight": (64, 32),
    "attn_v.weight": (64, 32),
    "attn_output.weight": (64, 64),
    "attn_q_norm.weight": (16,),
    "attn_k_norm.weight": (16,),
    "ffn_norm.weight": (64,),
    "ffn_gate_inp.weight": (64, 4),
    "ffn_up_exps.weight": (64, 32, 4),
    "ffn_gate_exps.weight": (64, 32, 4),
    "ffn_down_exps.weight": (32, 64, 4),
    "ffn_down_shexp.weight": (32, 64),
    "nextn.eh_proj.weight": (128, 64),
    "nextn.enorm.weight": (64,),
    "nextn.hnorm.weight": (64,),
    "nextn.embed_tokens.weight": (64, 1000),
    "nextn.shared_head_head.weight": (64, 1000),
    "nextn.shared_head_norm.weight": (64,),
}
HEADS = {"nextn.embed_tokens.weight", "nextn.shared_head_head.weight", "nextn.shared_head_norm.weight"}
FEED_FORWARD = {name for name in PREDICTION if name.startswith("ffn_")} - {"ffn_norm.weight"}


@pytest.mark.parametrize(
    ("architecture", "loaded"),
    [
        ("glm4moe", set()),
        ("deepseek2", set()),
        ("cohere2moe", HEADS),
        ("hy_v3", HEADS | FEED_FORWARD),
        ("step35", HEADS | FEED_FORWARD | {"attn_q_norm.weight", "attn_k_norm.weight"}),
    ],
)
def test_what_is_loaded_of_a_block_for_prediction(architecture: str, loaded: set[str]) -> None:
    """Their load_arch_tensors skip what gets `mtp_flags`, and take what else they find."""
    more = [tensor(f"blk.1.{name}", *shape) for name, shape in PREDICTION.items()]
    found = describe(
        metadata(
            architecture,
            nextn_predict_layers=1,
            attention__sliding_window=64,
            attention__sliding_window_pattern=[True, True],
        ),
        [*layers(1), *more],
    )
    sizes = {each.name.removeprefix("blk.1."): each.size for each in more}
    assert found.layers[1].weights == sum(sizes[name] for name in loaded)
    assert found.unused_weights == sum(size for name, size in sizes.items() if name not in loaded)


def test_a_block_for_prediction_computes_nothing() -> None:
    found = profile_of("glm4moe", 3, nextn_predict_layers=1)
    assert (found.predicting, found.trunk) == (1, 2)
    assert found.layers[2] == LayerShape()
    assert found.layers[1].feed_forward == found.layers[0].feed_forward


def test_one_architecture_keeps_a_cache_of_it() -> None:
    """bailingmoe3: 2 heads of 16."""
    found = profile_of("bailingmoe3", 3, nextn_predict_layers=1)
    assert found.layers[2] == LayerShape(key_width=32, value_width=32)
    assert len(families.CACHED_PREDICTION) == 1
