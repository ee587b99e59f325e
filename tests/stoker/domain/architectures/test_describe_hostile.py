"""Any header at all: it is described within bounds, or refused with a ValueError that says why."""

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.architectures import families
from stoker.domain.architectures.describe import MAX_LAYERS, describe
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.gguf import MetadataArray, MetadataValue, ModelProfile, TensorInfo
from tests.stoker.domain.architectures.headers import SIZES, layers

BIGINT = 2**63 - 1  # of PostgreSQL, where profiles and estimates end up
ARCHITECTURES = [*sorted(families.KNOWN), "novel", "clip", "t5"]
KEYS = (
    "block_count",
    "context_length",
    "embedding_length",
    "vocab_size",
    "pooling_type",
    "nextn_predict_layers",
    "feed_forward_length",
    "expert_used_count",
    "full_attention_interval",
    "token_shift_count",
    "wkv.head_size",
    "shortconv.l_cache",
    "kda.head_dim",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.group_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "attention.indexer.key_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.recurrent_layers",
    "attention.shared_kv_layers",
)
small = st.integers(0, 8)
any_number = st.one_of(
    small,
    st.sampled_from([-1, 2**16, 2**20, 2**31 - 1, 2**31, 2**63, 2**64 - 1]),
    st.booleans(),
    st.floats(),
)
any_array = st.one_of(
    st.lists(any_number, max_size=6).map(lambda items: MetadataArray(len(items), tuple(items))),
    st.lists(small, min_size=2, max_size=6).map(lambda items: MetadataArray(len(items), tuple(items))),
    st.integers(0, 2**63).map(MetadataArray),
)
any_value = st.one_of(any_number, st.text(max_size=4), any_array)
usual = st.fixed_dictionaries({"context_length": small, "embedding_length": small, "block_count": st.just(2)})


@st.composite
def headers(draw: st.DrawFn) -> dict[str, MetadataValue]:
    architecture = draw(st.sampled_from(ARCHITECTURES))
    numbers = draw(usual) | draw(st.dictionaries(st.sampled_from(KEYS), any_value, max_size=10))
    general = draw(
        st.dictionaries(
            st.sampled_from(("general.name", "general.type", "tokenizer.ggml.tokens", "tokenizer.chat_template")),
            any_value,
        )
    )
    return {"general.architecture": architecture} | general | {f"{architecture}.{k}": v for k, v in numbers.items()}


NAMES = [
    "token_embd.weight", "token_embd_norm.weight", "output.weight", "rope_freqs.weight", "blk.0.ffn_up.weight",
    "blk.0.ffn_down.weight", "blk.0.ffn_down_exps.weight", "blk.0.ffn_gate_inp.weight", "blk.1.attn_q.weight",
    "blk.0.ffn_gate.weight", "blk.0.ffn_norm.weight", "blk.0.ffn_down_shexp.weight", "blk.0.ffn_gate_exps.weight",
    "blk.1.attn_norm.weight", "blk.1.attn_k.weight", "blk.1.layer_output_norm.weight",
    "blk.1.attn_qkv.weight", "blk.1.ssm_conv1d.weight", "blk.1.ssm_out.weight", "blk.1.time_mix_lerp_fused.weight",
    "blk.9999.x", "blk.-1.x", "blk.0", "blk.", "",
]  # fmt: skip
any_tensor = st.builds(
    lambda name, shape, kind: TensorInfo(name, shape, kind, offset=0, size=2 * prod(shape)),
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(0, 2**12), max_size=4).map(tuple),  # as large as a file can be
    kind=st.sampled_from([*SIZES, "Q6_K", "MXFP4", ""]),
)


def described(found: dict[str, MetadataValue], tensors: list[TensorInfo]) -> ModelProfile | str:
    """The profile, or why there is none; whatever else is raised fails the test."""
    try:
        return describe(found, tensors)
    except ValueError as refusal:
        return str(refusal)


@given(headers(), st.lists(any_tensor, max_size=6), st.booleans())
def test_any_header_is_described_within_bounds_or_refused(
    found: dict[str, MetadataValue], tensors: list[TensorInfo], has_layers: bool
) -> None:
    profile = described(found, [*tensors, *(layers(2) if has_layers else [])])
    if isinstance(profile, str):
        assert 0 < len(profile) < 400
        return
    assert len(profile.layers) <= MAX_LAYERS
    for number in (value for value in profile.model_dump(exclude={"layers"}).values() if type(value) is int):
        assert 0 <= number <= BIGINT
    for layer in profile.layers:
        assert max(value for value in layer.model_dump().values() if type(value) is int) <= BIGINT
    assert len(profile.model_dump_json()) < 200_000


@given(headers())
def test_what_is_described_can_be_estimated_within_bounds_or_is_refused(found: dict[str, MetadataValue]) -> None:
    """Claims are stored as bigints too."""
    profile = described(found, layers(2))
    if isinstance(profile, str):
        return
    for split in ((), whole(profile)):
        outcome = estimate(profile, EngineOptions(slots=256, flash_attention=False), split)
        if isinstance(outcome, EstimateRefusal):
            assert outcome.message
        else:
            assert max(outcome.host.total, *(device.total for device in outcome.devices), 0) <= BIGINT
