"""A model in the making: metadata and tensors, put together from the parts that architectures share.

Names and shapes are those that llama.cpp's src/models/*.cpp ask for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.architectures.gguf_file import Metadata, Tensor, write_gguf

TypeOf = Callable[[str, tuple[int, ...]], str]

_ALWAYS_F32 = (  # by part of the name: what llama.cpp's quantiser leaves alone, and what its operators take as F32 only
    "_norm",
    "ffn_gate_inp",
    "ssm_conv1d",
    "shortconv.conv",
    "_mix_lerp_",
    "time_mix_first",
    "time_mix_decay.weight",
    "position_embd",
    "token_types",
    "attn_sinks",
    "rope_factors",
)


def is_f32(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor stays F32 whatever the quantisation."""
    return len(shape) == 1 or not name.endswith(".weight") or any(part in name for part in _ALWAYS_F32)


def uniform(kind: str) -> TypeOf:
    """All matrices of one type."""
    return lambda name, shape: "F32" if is_f32(name, shape) else kind


@dataclass
class Sketch:
    """A model without weights. `embedding` is the width of its hidden state."""

    architecture: str
    embedding: int
    vocabulary: int
    metadata: dict[str, Metadata] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    block: str = ""  # prefix of the tensors that are added now

    def keys(self, values: dict[str, Metadata]) -> None:
        """Adds metadata under the architecture's prefix."""
        for key, value in values.items():
            self.metadata[f"{self.architecture}.{key}"] = value

    def add(self, name: str, *shape: int) -> None:
        """Adds a tensor to the current block; `name` ends with `.bias`, or gets its `.weight` here."""
        self.bare(name if name.endswith(".bias") else f"{name}.weight", *shape)

    def bare(self, name: str, *shape: int) -> None:
        """Adds a tensor whose name has no ending."""
        self.shapes[f"{self.block}{name}"] = shape

    def norms(self, *names: str, bias: bool = False) -> None:
        """Adds vectors as long as the hidden state."""
        for name in names:
            self.add(name, self.embedding)
            if bias:
                self.add(f"{name}.bias", self.embedding)

    def ends(self, *, tied: bool, bias: bool = False) -> None:
        """Token embeddings, output norm and, unless tied, output matrix."""
        self.add("token_embd", self.embedding, self.vocabulary)
        self.norms("output_norm", bias=bias)
        if not tied:
            self.add("output", self.embedding, self.vocabulary)

    def attention(
        self,
        heads: int,
        heads_kv: int,
        key: int,
        value: int = 0,
        *,
        bias: str = "",
        norms: bool = False,
        gate: bool = False,
    ) -> None:
        """Projections of one attention layer; `bias` names those that have one, of q, k, v and o."""
        value = value or key
        widths = {"q": heads * key * (2 if gate else 1), "k": heads_kv * key, "v": heads_kv * value}
        for part, width in widths.items():
            self.add(f"attn_{part}", self.embedding, width)
            if part in bias:
                self.add(f"attn_{part}.bias", width)
        if norms:
            self.add("attn_q_norm", key)
            self.add("attn_k_norm", key)
        self.add("attn_output", heads * value, self.embedding)
        if "o" in bias:
            self.add("attn_output.bias", self.embedding)

    def fused_attention(self, heads: int, heads_kv: int, key: int) -> None:
        """Attention with one matrix for queries, keys and values."""
        self.add("attn_qkv", self.embedding, (heads + 2 * heads_kv) * key)
        self.add("attn_output", heads * key, self.embedding)

    def feed_forward(
        self, width: int, *, gated: bool = True, fused: bool = False, suffix: str = "", bias: bool = False
    ) -> None:
        """A dense feed-forward part. `fused`: gate and up in one matrix."""
        if gated and not fused:
            self.add(f"ffn_gate{suffix}", self.embedding, width)
        self.add(f"ffn_up{suffix}", self.embedding, width * (2 if fused else 1))
        self.add(f"ffn_down{suffix}", width, self.embedding)
        if bias:
            self.add(f"ffn_up{suffix}.bias", width)
            self.add(f"ffn_down{suffix}.bias", self.embedding)

    def experts(self, count: int, width: int, *, router_bias: bool = False, bias: bool = False) -> None:
        """A mixture of experts with its router. `router_bias`: the correction that DeepSeek-V3 adds to its choice."""
        self.add("ffn_gate_inp", self.embedding, count)
        if router_bias:
            self.add("exp_probs_b.bias", count)
        self.add("ffn_gate_exps", self.embedding, width, count)
        self.add("ffn_down_exps", width, self.embedding, count)
        self.add("ffn_up_exps", self.embedding, width, count)
        if bias:
            self.add("ffn_gate_inp.bias", count)
            for part, length in (("gate", width), ("down", self.embedding), ("up", width)):
                self.add(f"ffn_{part}_exps.bias", length, count)

    def mamba(self, inner: int, state: int, rank: int, kernel: int, *, norms: bool = False) -> None:
        """A Mamba 1 mixer; `norms` as Jamba has them."""
        self.add("ssm_in", self.embedding, 2 * inner)
        self.add("ssm_conv1d", kernel, inner)
        self.add("ssm_conv1d.bias", inner)
        self.add("ssm_x", inner, rank + 2 * state)
        self.add("ssm_dt", rank, inner)
        self.add("ssm_dt.bias", inner)
        self.bare("ssm_a", state, inner)
        self.bare("ssm_d", inner)
        if norms:
            self.add("ssm_dt_norm", rank)
            self.add("ssm_b_norm", state)
            self.add("ssm_c_norm", state)
        self.add("ssm_out", inner, self.embedding)

    def mamba2(self, inner: int, state: int, heads: int, groups: int, kernel: int) -> None:
        """A Mamba 2 mixer."""
        convolved = inner + 2 * groups * state
        self.add("ssm_in", self.embedding, inner + convolved + heads)
        self.add("ssm_conv1d", kernel, convolved)
        self.add("ssm_conv1d.bias", convolved)
        self.add("ssm_dt.bias", heads)
        self.bare("ssm_a", 1, heads)
        self.bare("ssm_d", 1, heads)
        self.add("ssm_norm", inner // groups, groups)
        self.add("ssm_out", inner, self.embedding)

    def next_token_prediction(self) -> None:
        """What a NextN (multi-token prediction) block has beside an ordinary one."""
        self.add("nextn.eh_proj", 2 * self.embedding, self.embedding)
        self.norms("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")

    def tensors(self, type_of: TypeOf) -> list[Tensor]:
        """All tensors in the order in which they were added."""
        return [Tensor(name, shape, type_of(name, shape)) for name, shape in self.shapes.items()]

    def write(self, path: Path, type_of: TypeOf) -> Path:
        """Writes the model to `path`, with a tokenizer that llama.cpp has for its own tests: it needs only names."""
        tokenizer: dict[str, Metadata] = {
            "tokenizer.ggml.model": "test",
            "tokenizer.ggml.tokens": [f"t{index}" for index in range(self.vocabulary)],
            "tokenizer.ggml.eos_token_id": 0,
        }
        general: dict[str, Metadata] = {"general.architecture": self.architecture, "general.name": "synthetic"}
        return write_gguf(path, general | self.metadata | tokenizer, self.tensors(type_of))


def per_layer(count: int, value: Callable[[int], int]) -> Sequence[int]:
    """An array-valued key: one number a layer."""
    return [value(layer) for layer in range(count)]
