"""The numbers of a header's metadata, each checked when it is asked for."""

import re
from collections.abc import Mapping

from stoker.domain.gguf import MetadataArray, MetadataValue

MAX_NUMBER = 2**24  # no length of any known model comes near; products of them stay far below 2**63
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_OTHER_FILES = {"adapter": "a LoRA adapter", "mmproj": "a multimodal projector", "imatrix": "an importance matrix"}


class Keys:
    """The architecture's own numbers among the metadata. Every method raises ValueError, naming the key."""

    def __init__(self, metadata: Mapping[str, MetadataValue]) -> None:
        self.metadata, self.architecture = metadata, _architecture(metadata)

    def number(self, key: str, default: int | None = 0, maximum: int = MAX_NUMBER) -> int:
        """The number under `key`, of an array the largest; `default` when it is missing, which None forbids."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, MetadataArray):
            return max((self._checked(key, item, maximum) for item in value.items), default=0)
        return self._checked(key, value, maximum)

    def per_layer(self, key: str, layers: int, default: int | None = 0) -> tuple[int, ...]:
        """The number under `key` of each layer; it may be one for all of them."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, MetadataArray):
            return (self._checked(key, value, MAX_NUMBER),) * layers
        if len(value.items) < layers:
            raise ValueError(f"{self.architecture}.{key} has {value.length} numbers for {layers} layers")
        return tuple(self._checked(key, item, MAX_NUMBER) for item in value.items[:layers])

    def flags(self, key: str, layers: int) -> tuple[bool, ...] | None:
        """Yes or no for each layer, where the header has an array of them."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, MetadataArray):
            return None
        missing = (False,) * (layers - len(value.items))  # llama.cpp lets the array be shorter
        return (*(bool(item) for item in value.items[:layers]), *missing)

    def has(self, key: str) -> bool:
        """Whether there is anything under `key`."""
        return f"{self.architecture}.{key}" in self.metadata

    def length(self, key: str) -> int:
        """Elements of the array under `key`; 0 when there is none."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value.length if isinstance(value, MetadataArray) else 0

    def _checked(self, key: str, value: MetadataValue | None, maximum: int) -> int:
        if type(value) is not int or not 0 <= value <= maximum:
            told = "missing" if value is None else repr(value)[:80]
            raise ValueError(f"{self.architecture}.{key} is {told}: it must be a number from 0 to {maximum}")
        return value


def _architecture(metadata: Mapping[str, MetadataValue]) -> str:
    kind, architecture = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if kind in _OTHER_FILES or architecture == "clip":
        raise ValueError(f"the file is {_OTHER_FILES.get(str(kind), 'a multimodal projector')}, not a model")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise ValueError(f"general.architecture is {str(architecture)[:80]!r}: it must be a name like llama or qwen2")
    return architecture
