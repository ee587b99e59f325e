"""How much of one token is alive at once while a layer computes, from the shapes of its matrices.

llama.cpp reserves the largest graph once (llama_context::graph_reserve), and its allocator (ggml-alloc) reuses what is
no longer needed. What counts is thus the widest moment of a layer. Each moment here was measured against the engine
by varying one length at a time, and is at or slightly above what was found. Beside it lives the residual stream, which
estimation/compute.py adds: RESIDUALS rows of the embedding.
"""

from collections.abc import Mapping
from typing import NamedTuple

Shape = tuple[int, ...]

RESIDUALS = 3  # rows of embedding_length beside the widest moment


class Widths(NamedTuple):
    """Elements a token of one layer."""

    activations: int  # alive at the widest moment, beyond RESIDUALS rows of the embedding
    mixed: int  # the same, of the moment when a recurrent state is read and written
    query: int  # of all heads' queries
    handed_on: int  # of a recurrent layer: to the next device, beside the residual stream
    taken_in: int  # of a recurrent layer: from the device before


def widths(shapes: Mapping[str, Shape], *, embedding_length: int, query_width: int, experts_used: int) -> Widths:
    """The widths of a layer whose tensors have `shapes`, by their name in the layer (`ffn_up.weight`).

    `query_width`: elements of all heads' queries, as they meet the cached keys.
    """
    query = max(query_width, _width(shapes, "attn_q.weight"))
    around = max(0, query - embedding_length)  # queries wider than the embedding leave a hole that is not reused
    moments = (
        _feed_forward(shapes) + around + _waiting(shapes) * embedding_length,
        _experts(shapes, embedding_length, experts_used) + around,
        _attention(shapes, query) - (RESIDUALS - 1) * embedding_length,
    )
    mixed = max(0, _state_space(shapes) - embedding_length, _time_mixing(shapes, embedding_length))
    return Widths(max(0, *moments), mixed, query, *_between_devices(shapes, embedding_length))


def _feed_forward(shapes: Mapping[str, Shape]) -> int:
    """Gate, up and their product; without a gate, the projection alone, which is activated in place."""
    up, down = _width(shapes, "ffn_up.weight"), _input(shapes, "ffn_down.weight")
    gated = "ffn_gate.weight" in shapes or up > down > 0  # both projections may be one tensor
    return 3 * down if gated else max(up, down)


def _experts(shapes: Mapping[str, Shape], embedding_length: int, used: int) -> int:
    """The same of every expert that a token is sent to, then what each of them answers; and the router's scores."""
    width, count = _input(shapes, "ffn_down_exps.weight"), _width(shapes, "ffn_gate_inp.weight")
    gated = "ffn_gate_exps.weight" in shapes or "ffn_gate_up_exps.weight" in shapes
    inside = (3 if gated else 1) * width * used
    shared = embedding_length if "ffn_down_shexp.weight" in shapes else 0  # what the routed ones said, meanwhile
    return max(inside, (width + embedding_length) * used) + 2 * count + shared if width else 0


def _waiting(shapes: Mapping[str, Shape]) -> int:
    """Rows of the embedding that wait for a feed-forward part to end, beyond RESIDUALS."""
    if "attn_norm.weight" in shapes and "ffn_norm.weight" not in shapes:
        return 1  # attention and feed-forward part read the same input: the one's result waits for the other's
    if "layer_output_norm.weight" in shapes and "ffn_gate.weight" not in shapes:
        return -1  # an encoder that norms after each part: its input is no longer needed
    return 0


def _attention(shapes: Mapping[str, Shape], query: int) -> int:
    """Queries, keys and values, each before and after their rotation, and the heads' results.

    BERT and its like, which know positions otherwise, do not rotate.
    """
    fused = _width(shapes, "attn_qkv.weight")
    rotated = 1 if "layer_output_norm.weight" in shapes and not fused else 2
    keys = _width(shapes, "attn_k.weight") + _width(shapes, "attn_v.weight")
    return rotated * (fused or query + keys) + _input(shapes, "attn_output.weight")


def _state_space(shapes: Mapping[str, Shape]) -> int:
    """Mamba, Mamba 2 and gated delta nets: what is convolved, in and out, and the gate.

    Where a layer attends too, the queries and the attention's result wait.
    """
    waiting = 2 * _width(shapes, "attn_q.weight") + _input(shapes, "attn_output.weight")
    mixed = 4 * _width(shapes, "ssm_conv1d.weight") + _input(shapes, "ssm_out.weight")
    return mixed + waiting if mixed else 0


def _time_mixing(shapes: Mapping[str, Shape], embedding_length: int) -> int:
    """RWKV: five or six interpolations of each token with the one before, and what is made of them."""
    mixed = shapes.get("time_mix_lerp_fused.weight", ())
    if not mixed:
        return 0
    return (11 if mixed[-1] == 5 else 16) * embedding_length


def _between_devices(shapes: Mapping[str, Shape], embedding_length: int) -> tuple[int, int]:
    if "time_mix_lerp_fused.weight" in shapes:
        return embedding_length + embedding_length // 4, 2 * embedding_length + embedding_length // 2
    inner = _input(shapes, "ssm_out.weight")
    taken_in = inner + _width(shapes, "ssm_conv1d.weight")
    if "ffn_norm.weight" not in shapes:  # Mamba alone
        return inner, taken_in
    # Jamba: only from a layer without experts to one with them
    return (0, taken_in) if "ffn_gate_inp.weight" in shapes else (inner, embedding_length)


def _width(shapes: Mapping[str, Shape], name: str) -> int:
    shape = shapes.get(name, ())
    return shape[1] if len(shape) > 1 else 0


def _input(shapes: Mapping[str, Shape], name: str) -> int:
    shape = shapes.get(name, ())
    return shape[0] if shape else 0
