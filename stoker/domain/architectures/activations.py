"""How much of one token is alive at once while a layer computes, from the shapes of its matrices.

llama.cpp reserves the largest graph once (llama_context::graph_reserve), and its allocator (ggml-alloc) reuses what is
no longer needed. What counts is thus the widest moment of a layer. Each moment here was measured against the engine
by varying one length at a time, and is at or slightly above what was found. Rows are rows of embedding_length: the
residual stream, norms, and holes that are not reused.
"""

from collections.abc import Mapping
from typing import NamedTuple

Shape = tuple[int, ...]


class Widths(NamedTuple):
    """Elements a token of one layer."""

    feed_forward: int  # alive at the widest moment of its feed-forward part, or of its experts
    attention: int  # of its attention
    mixing: int  # of its recurrent part
    query: int  # of all heads' queries
    handed_on: int  # of a recurrent layer: to the next device, beside the residual stream
    taken_in: int  # of a recurrent layer: from the device before


def widths(shapes: Mapping[str, Shape], *, embedding_length: int, query_width: int, experts_used: int) -> Widths:
    """The widths of a layer whose tensors have `shapes`, by their name in the layer (`ffn_up.weight`).

    `query_width`: elements of all heads' queries, as they meet the cached keys.
    """
    query = max(query_width, _width(shapes, "attn_q.weight"))
    around = max(0, query - embedding_length)  # queries wider than the embedding leave a hole
    dense, experts = _feed_forward(shapes, embedding_length), _experts(shapes, embedding_length, experts_used)
    return Widths(
        feed_forward=max(dense + around if dense else 0, experts + around if experts else 0),
        attention=_attention(shapes, query, embedding_length),
        mixing=max(
            _state_space(shapes, embedding_length),
            _time_mixing(shapes, embedding_length),
            _short_convolution(shapes, embedding_length),
        ),
        query=query,
        **_between_devices(shapes, embedding_length),
    )


def _feed_forward(shapes: Mapping[str, Shape], row: int) -> int:
    """Gate, up and their product; without a gate, the projection alone, which is activated in place."""
    up, down = _width(shapes, "ffn_up.weight"), _input(shapes, "ffn_down.weight")
    if not down:
        return 0
    if "ffn_gate.weight" in shapes:
        if "ssm_out.weight" in shapes and "attn_q.weight" in shapes:
            return 2 * down + 5 * row + row // 2  # the product is written into what the recurrent part leaves
        # Where attention and feed-forward part read the same input, the one's result waits for the other's.
        return 3 * down + (3 if "ffn_norm.weight" in shapes or "attn_norm.weight" not in shapes else 4) * row
    if up > down:  # gate and up in one tensor
        return 3 * down + (3 if "ffn_norm.weight" in shapes else 4) * row
    if "layer_output_norm.weight" in shapes:
        return down + 2 * row  # an encoder that norms after each part: its input is no longer needed
    return down + (3 if "ffn_norm.weight" in shapes else 4) * row


def _experts(shapes: Mapping[str, Shape], row: int, used: int) -> int:
    """The same of every expert that a token is sent to; what each of them answers; and the router's scores.

    The answers take the place of gate and up where they fit into it.
    """
    width, count = _input(shapes, "ffn_down_exps.weight"), _width(shapes, "ffn_gate_inp.weight")
    if not width:
        return 0
    gated = "ffn_gate_exps.weight" in shapes or "ffn_gate_up_exps.weight" in shapes
    inside = (3 if gated else 1) * width * used
    answers = row * used if row > (2 if gated else 0) * width else 0
    waiting = "ffn_down_shexp.weight" in shapes or answers  # the input of a shared expert, or a hole
    weighted = row if used == 1 else 0  # Llama 4 weighs the input, not the answer
    return inside + answers + 2 * count + (4 if waiting else 3) * row + weighted


def _attention(shapes: Mapping[str, Shape], query: int, row: int) -> int:
    """Queries before and after their rotation, and what it reads. BERT and its like do not rotate."""
    if fused := _width(shapes, "attn_qkv.weight"):
        return 2 * fused + row
    if not query:
        return 0
    if "layer_output_norm.weight" in shapes:
        return query + _width(shapes, "attn_k.weight") + _width(shapes, "attn_v.weight") + row
    waiting = 0 if "ffn_norm.weight" in shapes else row  # the feed-forward part's input, where it is the same
    latent = _width(shapes, "attn_q_b.weight") + _width(shapes, "attn_kv_a_mqa.weight")
    return 2 * query + _width(shapes, "attn_k.weight") + latent + waiting + row


def _state_space(shapes: Mapping[str, Shape], row: int) -> int:
    """Mamba, Mamba 2 and gated delta nets: what is convolved, in and out, and the gate.

    Where a layer attends too, the queries and the attention's result wait.
    """
    convolved = _width(shapes, "ssm_conv1d.weight")
    if not convolved:
        return 0
    waiting = 2 * _width(shapes, "attn_q.weight") + _input(shapes, "attn_output.weight")
    return 4 * convolved + _input(shapes, "ssm_out.weight") + waiting + 2 * row


def _time_mixing(shapes: Mapping[str, Shape], row: int) -> int:
    """RWKV: five or six interpolations of each token with the one before, and what is made of them."""
    mixed = shapes.get("time_mix_lerp_fused.weight", ())
    if not mixed:
        return 0
    return (14 if mixed[-1] == 5 else 19) * row


def _short_convolution(shapes: Mapping[str, Shape], row: int) -> int:
    """LFM2: what is convolved and its two gates, in one tensor."""
    gated = _width(shapes, "shortconv.in_proj.weight")
    return gated + 2 * row if gated else 0


def _between_devices(shapes: Mapping[str, Shape], row: int) -> dict[str, int]:
    if "time_mix_lerp_fused.weight" in shapes:
        return {"handed_on": row + row // 4, "taken_in": 2 * row + row // 2}
    inner = _input(shapes, "ssm_out.weight")
    taken_in = inner + _width(shapes, "ssm_conv1d.weight")
    if "ffn_norm.weight" not in shapes:  # Mamba alone
        return {"handed_on": inner, "taken_in": taken_in}
    # Jamba: only from a layer without experts to one with them
    routed = "ffn_gate_inp.weight" in shapes
    return {"handed_on": 0 if routed else inner, "taken_in": taken_in if routed else row}


def _width(shapes: Mapping[str, Shape], name: str) -> int:
    shape = shapes.get(name, ())
    return shape[1] if len(shape) > 1 else 0


def _input(shapes: Mapping[str, Shape], name: str) -> int:
    shape = shapes.get(name, ())
    return shape[0] if shape else 0
