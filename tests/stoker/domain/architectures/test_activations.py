"""The widest moment of a layer, from the shapes of its matrices."""

import pytest

from stoker.domain.architectures.activations import RESIDUALS, Shape, Widths, widths

EMBEDDING = 4096


def of(shapes: dict[str, Shape], *, experts_used: int = 0, query_width: int = EMBEDDING) -> Widths:
    named = {f"{name}.weight": shape for name, shape in shapes.items()}
    return widths(named, embedding_length=EMBEDDING, query_width=query_width, experts_used=experts_used)


LLAMA_3_1_8B: dict[str, Shape] = {
    "attn_norm": (4096,),
    "attn_q": (4096, 4096),
    "attn_k": (4096, 1024),
    "attn_v": (4096, 1024),
    "attn_output": (4096, 4096),
    "ffn_norm": (4096,),
    "ffn_gate": (4096, 14_336),
    "ffn_up": (4096, 14_336),
    "ffn_down": (14_336, 4096),
}


def test_llama_3_1_8b() -> None:
    """Gate, up and their product are alive at once: 3 x 14,336."""
    found = of(LLAMA_3_1_8B)
    assert (found.activations, found.query) == (3 * 14_336, 4096)


def test_gate_and_up_may_be_one_matrix() -> None:
    """phi3, glm4: half of it is the gate."""
    assert of({"ffn_up": (4096, 28_672), "ffn_down": (14_336, 4096)}).activations == 3 * 14_336


def test_without_a_gate_the_projection_is_activated_in_place() -> None:
    assert of({"ffn_up": (4096, 16_384), "ffn_down": (16_384, 4096)}).activations == 16_384


def experts(width: int, count: int) -> dict[str, Shape]:
    return {
        "ffn_gate_exps": (4096, width, count),
        "ffn_up_exps": (4096, width, count),
        "ffn_down_exps": (width, 4096, count),
    }


def test_every_expert_that_a_token_is_sent_to() -> None:
    """Mixtral: 2 of 8 experts of 14,336; Qwen3-30B-A3B: 8 of 128 of 768, whose answers are wider than their insides."""
    assert of(experts(14_336, 8), experts_used=2).activations == 2 * 3 * 14_336
    assert of(experts(768, 128), experts_used=8).activations == 8 * (768 + EMBEDDING)


def test_the_router_scores_all_experts() -> None:
    router: dict[str, Shape] = {"ffn_gate_inp": (4096, 128)}
    one, other = (of(experts(768, 128) | more, experts_used=8).activations for more in ({}, router))
    assert other - one == 2 * 128


def test_an_expert_that_answers_every_token_waits_for_the_others() -> None:
    shared: dict[str, Shape] = {"ffn_down_shexp": (768, 4096)}
    one, other = (of(experts(768, 128) | more, experts_used=8).activations for more in ({}, shared))
    assert other - one == EMBEDDING


def test_queries_wider_than_the_embedding() -> None:
    """Qwen3 8B has none, Gemma and Qwen3-30B do; compressed queries (DeepSeek) have no attn_q of that width."""
    assert of(LLAMA_3_1_8B | {"attn_q": (4096, 8192)}).query == 8192
    assert of(LLAMA_3_1_8B, query_width=128 * 576).query == 128 * 576
    assert of(LLAMA_3_1_8B, query_width=8192).activations > of(LLAMA_3_1_8B).activations


def test_wide_attention_beats_a_narrow_feed_forward() -> None:
    """Some rows of the residual stream are not alive then: they are taken off."""
    shapes = LLAMA_3_1_8B | {"ffn_gate": (4096, 256), "ffn_up": (4096, 256), "ffn_down": (256, 4096)}
    attention = 4096 + 1024 + 1024 + 4096
    assert of(shapes).activations >= attention - (RESIDUALS - 1) * EMBEDDING > 3 * 256


@pytest.mark.parametrize("name", [name for name, shape in LLAMA_3_1_8B.items() if len(shape) > 1])
def test_a_larger_matrix_never_takes_less(name: str) -> None:
    rows, columns = LLAMA_3_1_8B[name]
    assert of(LLAMA_3_1_8B | {name: (2 * rows, 2 * columns)}).activations >= of(LLAMA_3_1_8B).activations


def test_a_layer_without_tensors_has_no_moment_of_its_own() -> None:
    assert of({}, query_width=0).activations == 0


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (1, 2, 3, 4)])
@pytest.mark.parametrize(
    "name",
    ["ffn_up", "ffn_down", "ffn_down_exps", "attn_qkv", "attn_q", "attn_output", "ssm_conv1d", "time_mix_lerp_fused"],
)
def test_odd_shapes_are_only_odd(name: str, shape: Shape) -> None:
    """A header's shapes may be anything: nothing is raised."""
    assert of({name: shape}, experts_used=2).activations >= 0
