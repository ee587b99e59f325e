"""The profile of a multimodal projector."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.domain.architectures.projector import describe_projector
from stoker.domain.gguf import MetadataArray, MetadataValue, ProjectorProfile
from tests.stoker.domain.architectures.headers import tensor

VISION: dict[str, MetadataValue] = {
    "block_count": 27,
    "image_size": 896,
    "patch_size": 14,
    "embedding_length": 1152,
    "feed_forward_length": 4304,
    "attention.head_count": 16,
}
TENSORS = [tensor("v.blk.0.ffn_up.weight", 1152, 4304), tensor("mm.input_projection.weight", 1152, 9)]


def described(part: str = "vision", **changed: Any) -> ProjectorProfile:
    numbers = VISION | {name.replace("__", "."): value for name, value in changed.items()}
    found: dict[str, MetadataValue] = {"general.architecture": "clip", "general.name": "Gemma 3"}
    found |= {f"clip.{part}.{key}": value for key, value in numbers.items() if value is not None}
    return describe_projector(found, TENSORS)


def test_gemma_3() -> None:
    """896 pixels are 64 patches a side."""
    assert described() == ProjectorProfile(
        name="Gemma 3",
        weights=2 * 1152 * (4304 + 9),
        padding=0,
        patches=64 * 64,
        pixels=896 * 896,
        embedding_length=1152,
        feed_forward=4304,
        heads=16,
    )


@pytest.mark.parametrize(
    ("changed", "patches"),
    [
        ({"image_size": 336}, 24 * 24),
        ({"image_size": 560, "spatial_merge_size": 2}, 92 * 92),  # Qwen2-VL: pictures of any size, 46 tokens a side
        ({"image_size": 2800, "spatial_merge_size": 2}, 200 * 200),
        ({"image_size": 512, "patch_size": 16, "projector__scale_factor": 4}, 184 * 184),
        ({"patch_size": None}, 896 * 896),  # one pixel, then
        ({"patch_size": 0}, 896 * 896),
        ({"image_size": None}, 0),
    ],
)
def test_patches_of_the_largest_picture(changed: dict[str, Any], patches: int) -> None:
    assert described(**changed).patches == patches


def test_sound_is_30_seconds_at_once() -> None:
    assert described("audio").patches == 1500


def test_a_projector_for_both_has_the_larger_of_each() -> None:
    found: dict[str, MetadataValue] = {"general.architecture": "clip"}
    found |= {f"clip.vision.{key}": value for key, value in VISION.items()}
    found |= {"clip.audio.block_count": 24, "clip.audio.embedding_length": 1280, "clip.audio.feed_forward_length": 2048}
    both = describe_projector(found, TENSORS)
    assert (both.patches, both.embedding_length, both.feed_forward) == (64 * 64, 1280, 4304)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"image_size": 2**20, "patch_size": 1}, "at most"),
        ({"image_size": -1}, r"clip\.vision\.image_size is -1"),
        ({"image_size": "896"}, r"clip\.vision\.image_size is 896: it must be a number"),
        ({"embedding_length": 1.5}, r"clip\.vision\.embedding_length is 1\.5"),
        ({"attention__head_count": True}, r"clip\.vision\.attention\.head_count is True"),
        ({"feed_forward_length": MetadataArray(2, (1, 2.5))}, r"clip\.vision\.feed_forward_length is 2\.5"),
    ],
)
def test_numbers_that_make_no_sense(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        described(**changed)


def test_a_model_is_no_projector() -> None:
    with pytest.raises(ValueError, match=r"general\.architecture is 'llama': a multimodal projector"):
        describe_projector({"general.architecture": "llama"}, [])


any_value = st.one_of(
    st.integers(-1, 2**64),
    st.booleans(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(-1, 2**40), st.floats()), max_size=3).map(lambda x: MetadataArray(len(x), tuple(x))),
)


@example({"block_count": 1, "image_size": 2**14, "patch_size": 1, "attention.head_count": 2**20})
@given(st.dictionaries(st.sampled_from(sorted({*VISION, "spatial_merge_size", "projector.scale_factor"})), any_value))
def test_any_header_is_described_within_bounds_or_refused(numbers: dict[str, MetadataValue]) -> None:
    found: dict[str, MetadataValue] = {f"clip.vision.{key}": value for key, value in numbers.items()}
    try:
        profile = describe_projector({"general.architecture": "clip"} | found, TENSORS)
    except ValueError:
        return
    row = 3 * profile.feed_forward + 6 * profile.embedding_length
    assert 4 * profile.patches * max(row, profile.heads * profile.patches) < 2**62, "it is stored as a bigint"
