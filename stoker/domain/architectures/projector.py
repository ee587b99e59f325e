"""The profile of a multimodal projector (llama.cpp: tools/mtmd/clip.cpp)."""

from collections.abc import Mapping, Sequence

from stoker.domain.architectures.keys import MAX_NUMBER
from stoker.domain.architectures.sizes import size_in_ram, size_of_gpu_padding
from stoker.domain.gguf import MetadataArray, MetadataValue, ProjectorProfile, TensorInfo

# Encoders of pictures of any size are reserved for so many tokens a side, unless they name fewer
# (clip_hparams::set_warmup_n_tokens).
_TOKENS_A_SIDE = 46
_SOUND_POSITIONS = 1500  # of the 30 s that an encoder of sound takes at once
_MAX_SIDE = 1 << 11  # patches
_MAX_LENGTH = 1 << 20


def describe_projector(metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorInfo]) -> ProjectorProfile:
    """The profile of a projector's file. Raises ValueError when it is none, or its numbers make no sense."""
    if metadata.get("general.architecture") != "clip":
        raise ValueError(
            f"general.architecture is {str(metadata.get('general.architecture'))[:80]!r}: a multimodal projector "
            "(mmproj) says clip"
        )
    parts = [part for part in ("vision", "audio") if f"clip.{part}.block_count" in metadata]

    def largest(key: str) -> int:
        length = max((_number(metadata, f"clip.{part}.{key}") for part in parts), default=0)
        if length > _MAX_LENGTH:
            raise ValueError(f"clip.*.{key} is {length}: at most {_MAX_LENGTH} makes sense")
        return length

    side = _patches_a_side(metadata) if "vision" in parts else 0
    return ProjectorProfile(
        name=str(metadata.get("general.name", ""))[:128],
        weights=size_in_ram(tensors),
        padding=size_of_gpu_padding(tensors),
        patches=max(side * side, _SOUND_POSITIONS if "audio" in parts else 0),
        pixels=(side * _number(metadata, "clip.vision.patch_size")) ** 2,
        embedding_length=largest("embedding_length"),
        feed_forward=largest("feed_forward_length"),
        gated=any(".ffn_gate." in tensor.name for tensor in tensors),
        heads=largest("attention.head_count"),
    )


def _patches_a_side(metadata: Mapping[str, MetadataValue]) -> int:
    side = _number(metadata, "clip.vision.image_size") // (_number(metadata, "clip.vision.patch_size") or 1)
    merged = max(
        1,
        _number(metadata, "clip.vision.spatial_merge_size"),
        _number(metadata, "clip.vision.projector.scale_factor"),
    )
    if merged > 1:
        side = max(side, _TOKENS_A_SIDE * merged)
    if side > _MAX_SIDE:
        raise ValueError(f"clip.vision.image_size makes {side} patches a side: at most {_MAX_SIDE} make sense")
    return side


def _number(metadata: Mapping[str, MetadataValue], key: str) -> int:
    value = metadata.get(key, 0)
    if isinstance(value, MetadataArray):
        value = max(value.items, default=0)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{key} is {str(value)[:80]}: it must be a number from 0 to {MAX_NUMBER}")
    return value
