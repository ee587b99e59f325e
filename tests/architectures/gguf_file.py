"""Writes GGUF files whose tensors are holes: they take no room, and their weights read as zeros."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import gguf

ALIGNMENT = 32  # bytes
Metadata = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int]

_KIND = gguf.GGUFValueType
_SCALAR = {_KIND.UINT32: "<I", _KIND.INT32: "<i", _KIND.FLOAT32: "<f", _KIND.BOOL: "<?"}


class Tensor(NamedTuple):
    """A tensor's place in a header: `shape` with the fastest-moving dimension first, `type` by ggml's name."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def size(self) -> int:
        """Bytes of its data."""
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.type]]
        if self.shape[0] % elements:
            raise ValueError(f"{self.name}: rows of {self.shape[0]} elements cannot be {self.type}")
        count = 1
        for length in self.shape:
            count *= length
        return int(count // elements * size)


def write_gguf(path: Path, metadata: Mapping[str, Metadata], tensors: Sequence[Tensor]) -> Path:
    """Writes `path` with its true size; only the header takes room on the disk."""
    header, size = gguf_header(metadata, tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
    return path


def gguf_header(metadata: Mapping[str, Metadata], tensors: Sequence[Tensor]) -> tuple[bytes, int]:
    """All that comes before the tensors' data, and the size of the whole file."""
    header = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _text(key) + _value(value)
    offset = 0
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.type]
        header += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, kind, offset)
        offset += _padded(tensor.size)
    return bytes(header), _padded(len(header)) + offset


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Metadata) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _KIND.STRING) + _text(value)
    if isinstance(value, Sequence):
        if isinstance(value[0], str):
            return struct.pack("<IIQ", _KIND.ARRAY, _KIND.STRING, len(value)) + b"".join(map(_text, map(str, value)))
        kind = _kind(value[0], signed=True)
        items = struct.pack(f"<{len(value)}{_SCALAR[kind][1]}", *value)
        return struct.pack("<IIQ", _KIND.ARRAY, kind, len(value)) + items
    kind = _kind(value)
    return struct.pack("<I", kind) + struct.pack(_SCALAR[kind], value)


def _kind(value: object, *, signed: bool = False) -> gguf.GGUFValueType:
    if isinstance(value, bool):
        return _KIND.BOOL
    if isinstance(value, float):
        return _KIND.FLOAT32
    return _KIND.INT32 if signed else _KIND.UINT32
