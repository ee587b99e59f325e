"""The widest moments of a layer, from the shapes of its matrices: published models worked by hand."""

import pytest

from stoker.domain.architectures.activations import Shape, Widths, widths

Shapes = dict[str, Shape]


def of(shapes: Shapes, *, row: int = 4096, experts_used: int = 0, query_width: int = 0) -> Widths:
    """Of a layer whose matrices have these shapes, in a model with embeddings of `row` elements."""
    named = {f"{name}.weight": shape for name, shape in shapes.items()}
    return widths(named, embedding_length=row, query_width=query_width, experts_used=experts_used)


def norms(row: int) -> Shapes:
    """Before the attention, and before the feed-forward part."""
    return {"attn_norm": (row,), "ffn_norm": (row,)}


def queries(row: int, query: int, cached: int) -> Shapes:
    return {"attn_q": (row, query), "attn_k": (row, cached), "attn_v": (row, cached), "attn_output": (query, row)}


def ungated(row: int, width: int) -> Shapes:
    return {"ffn_up": (row, width), "ffn_down": (width, row)}


def gated(row: int, width: int) -> Shapes:
    return {"ffn_gate": (row, width)} | ungated(row, width)


def fused(row: int, width: int) -> Shapes:
    """Gate and up in one matrix."""
    return {"ffn_up": (row, 2 * width), "ffn_down": (width, row)}


def experts(row: int, width: int, count: int) -> Shapes:
    return {
        "ffn_gate_inp": (row, count),
        "ffn_gate_exps": (row, width, count),
        "ffn_up_exps": (row, width, count),
        "ffn_down_exps": (width, row, count),
    }


LLAMA_3_1_8B = norms(4096) | queries(4096, 4096, 1024) | gated(4096, 14_336)
FALCON_H1: Shapes = norms(1024) | queries(1024, 512, 128) | gated(1024, 2048)
FALCON_H1 |= {"ssm_conv1d": (4, 1792), "ssm_out": (1536, 1024)}
MAMBA_130M: Shapes = {"attn_norm": (768,), "ssm_conv1d": (4, 1536), "ssm_out": (1536, 768)}
JAMBA: Shapes = norms(4096) | {"ssm_conv1d": (4, 8192), "ssm_out": (8192, 4096)}


def test_llama_3_1_8b() -> None:
    """Gate, up and product of 14,336 with three rows; queries before and after rotation, keys, what they read."""
    found = of(LLAMA_3_1_8B)
    assert (found.feed_forward, found.attention, found.mixing, found.query) == (
        3 * 14_336 + 3 * 4096,
        2 * 4096 + 1024 + 4096,
        0,
        4096,
    )


# --- the feed-forward part --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "row", "expected"),
    [
        pytest.param(norms(4096) | gated(4096, 14_336), 4096, 55_296, id="gated: Llama 3.1 8B"),
        # 3 x 22,528 + 4 x 8192: the attention's result waits
        pytest.param({"attn_norm": (8192,)} | gated(8192, 22_528), 8192, 100_352, id="gated, in parallel: Command R"),
        pytest.param(gated(4096, 11_008), 4096, 45_312, id="gated, norms after each part: OLMo 2 7B"),
        pytest.param(norms(3072) | fused(3072, 8192), 3072, 33_792, id="gate and up in one: Phi 3 mini"),
        pytest.param({"attn_norm": (3072,)} | fused(3072, 8192), 3072, 36_864, id="gate and up in one, in parallel"),
        # activated in place: once
        pytest.param(norms(768) | ungated(768, 3072), 768, 5376, id="ungated: GPT-2"),
        pytest.param({"attn_norm": (2560,)} | ungated(2560, 10_240), 2560, 20_480, id="ungated, in parallel: Phi 2"),
        pytest.param({"layer_output_norm": (768,)} | ungated(768, 3072), 768, 4608, id="ungated, normed after: BERT"),
        # 2 x 2048 + 5.5 x 1024
        pytest.param(FALCON_H1, 1024, 9728, id="beside a recurrent part: Falcon-H1 0.5B"),
        pytest.param(norms(4096) | queries(4096, 4096, 1024), 4096, 0, id="none"),
    ],
)
def test_feed_forward(shapes: Shapes, row: int, expected: int) -> None:
    assert of(shapes, row=row).feed_forward == expected


@pytest.mark.parametrize(
    ("shapes", "row", "used", "expected"),
    [
        # 2 x 3 x 14,336, twice 8 scores, 3 rows: a row of 4096 fits into gate and up of 14,336
        pytest.param(experts(4096, 14_336, 8), 4096, 2, 98_320, id="answers fit: Mixtral 8x7B"),
        # 8 x 3 x 768, 8 answers of 2048, twice 128 scores, 4 rows: 2048 does not fit into 2 x 768
        pytest.param(experts(2048, 768, 128), 2048, 8, 43_264, id="answers do not fit: Qwen3 30B-A3B"),
        # 1536 is exactly 2 x 768: 8 x 3 x 768, 256, 3 rows
        pytest.param(experts(1536, 768, 128), 1536, 8, 23_296, id="answers just fit"),
        # 8 x 3 x 2560, twice 64 scores, 4 rows: the shared expert's input waits
        pytest.param(
            experts(3584, 2560, 64) | {"ffn_down_shexp": (20_480, 3584)}, 3584, 8, 75_904, id="shared: Qwen2 57B-A14B"
        ),
        # 2 x 3072, 2 answers, twice 8 scores, 4 rows
        pytest.param(
            {"ffn_gate_inp": (768, 8), "ffn_up_exps": (768, 3072, 8), "ffn_down_exps": (3072, 768, 8)},
            768,
            2,
            10_768,
            id="ungated: Nomic Embed MoE",
        ),
        # 4 x 3 x 2880, twice 32 scores, 3 rows
        pytest.param(
            {"ffn_gate_inp": (2880, 32), "ffn_gate_up_exps": (2880, 5760, 32), "ffn_down_exps": (2880, 2880, 32)},
            2880,
            4,
            43_264,
            id="gate and up in one",
        ),
        # the experts: 2 x 3 x 4864, twice 128 scores, 3 rows; the dense part: 3 x 4864 and 3 rows
        pytest.param(
            norms(7168) | gated(7168, 4864) | experts(7168, 4864, 128), 7168, 2, 50_944, id="beside a dense one: Arctic"
        ),
    ],
)
def test_experts(shapes: Shapes, row: int, used: int, expected: int) -> None:
    assert of(shapes, row=row, experts_used=used).feed_forward == expected


def test_a_dense_part_wider_than_the_experts_decides() -> None:
    assert of(LLAMA_3_1_8B | experts(4096, 2048, 8), experts_used=1).feed_forward == of(LLAMA_3_1_8B).feed_forward


# --- attention ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "row", "expected"),
    [
        pytest.param(norms(768) | {"attn_qkv": (768, 2304)}, 768, 2 * 2304 + 768, id="one matrix: GPT-2"),
        # the parts that read the same input: it waits for the feed-forward part
        pytest.param(
            {"attn_norm": (8192,)} | queries(8192, 8192, 1024),
            8192,
            2 * 8192 + 1024 + 2 * 8192,
            id="in parallel: Command R",
        ),
        # no rotation: queries, keys and values once
        pytest.param({"layer_output_norm": (768,)} | queries(768, 768, 768), 768, 4 * 768, id="unrotated: BERT"),
        pytest.param(norms(4096) | gated(4096, 14_336), 4096, 0, id="none"),
    ],
)
def test_attention(shapes: Shapes, row: int, expected: int) -> None:
    assert of(shapes, row=row).attention == expected


def test_queries_wider_than_the_embedding_leave_a_hole() -> None:
    """Qwen3 0.6B: 16 heads of 128 for embeddings of 1024. The feed-forward part pays for the difference."""
    found = of(norms(1024) | queries(1024, 2048, 1024) | gated(1024, 3072), row=1024)
    assert found == Widths(
        feed_forward=3 * 3072 + 3 * 1024 + (2048 - 1024),
        attention=2 * 2048 + 1024 + 1024,
        mixing=0,
        query=2048,
        handed_on=0,
        taken_in=1024,
    )
    wide = norms(2048) | queries(2048, 4096, 512) | experts(2048, 768, 128)
    assert of(wide, row=2048, experts_used=8).feed_forward == 43_264 + (4096 - 2048)


def test_compressed_queries_are_as_wide_as_they_meet_the_cache() -> None:
    """DeepSeek R1: 128 heads of 576, out of 128 x 192 that stand beside the compressed keys."""
    shapes: Shapes = norms(7168) | {"attn_q_b": (1536, 24_576), "attn_kv_a_mqa": (7168, 576)}
    found = of(shapes, row=7168, query_width=73_728)
    assert (found.query, found.attention) == (73_728, 2 * 73_728 + 24_576 + 576 + 7168)


# --- recurrent parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "row", "expected"),
    [
        pytest.param(MAMBA_130M, 768, 4 * 1536 + 1536 + 2 * 768, id="state space: Mamba 130M"),
        # twice 512 queries and the attention's 512 wait
        pytest.param(FALCON_H1, 1024, 4 * 1792 + 1536 + 2 * 512 + 512 + 2 * 1024, id="with attention: Falcon-H1 0.5B"),
        pytest.param({"time_mix_lerp_fused": (2048, 1, 1, 5)}, 2048, 14 * 2048, id="five mixes: RWKV 6"),
        pytest.param({"time_mix_lerp_fused": (2048, 1, 1, 6)}, 2048, 19 * 2048, id="six mixes: RWKV 7"),
        pytest.param({"shortconv.in_proj": (1024, 3072)}, 1024, 3072 + 2 * 1024, id="short convolution: LFM2 350M"),
        pytest.param(LLAMA_3_1_8B, 4096, 0, id="none"),
    ],
)
def test_mixing(shapes: Shapes, row: int, expected: int) -> None:
    assert of(shapes, row=row).mixing == expected


@pytest.mark.parametrize(
    ("shapes", "row", "handed_on", "taken_in"),
    [
        pytest.param({"time_mix_lerp_fused": (2048, 1, 1, 6)}, 2048, 2560, 5120, id="RWKV: 1.25 and 2.5 rows"),
        pytest.param(MAMBA_130M, 768, 1536, 3072, id="Mamba 130M"),
        pytest.param(JAMBA | gated(4096, 14_336), 4096, 8192, 4096, id="Jamba, a dense layer"),
        pytest.param(JAMBA | experts(4096, 14_336, 16), 4096, 0, 16_384, id="Jamba, a layer with experts"),
    ],
)
def test_what_goes_from_device_to_device(shapes: Shapes, row: int, handed_on: int, taken_in: int) -> None:
    found = of(shapes, row=row)
    assert (found.handed_on, found.taken_in) == (handed_on, taken_in)


# --- any layer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, shape in LLAMA_3_1_8B.items() if len(shape) > 1])
def test_a_larger_matrix_never_takes_less(name: str) -> None:
    rows, columns = LLAMA_3_1_8B[name]
    larger, found = of(LLAMA_3_1_8B | {name: (2 * rows, 2 * columns)}), of(LLAMA_3_1_8B)
    assert all(more >= less for more, less in zip(larger, found, strict=True))


def test_a_layer_without_tensors_has_no_moment_of_its_own() -> None:
    found = of({})
    assert (found.feed_forward, found.attention, found.mixing, found.query) == (0, 0, 0, 0)


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (1, 2, 3, 4)])
@pytest.mark.parametrize(
    "name",
    ["ffn_up", "ffn_down", "ffn_down_exps", "attn_qkv", "attn_q", "attn_output", "ssm_conv1d", "time_mix_lerp_fused"],
)
def test_odd_shapes_are_only_odd(name: str, shape: Shape) -> None:
    """A header's shapes may be anything: nothing is raised."""
    assert min(of({name: shape}, experts_used=2)) >= 0
