"""Reads GGUF headers, from files and from anything else that can be read at an offset.

A model file is hostile input: every count, length and nesting is bounded before it is believed, and each tensor must
lie inside the file. Nothing is held that is not needed: a tokenizer's word lists are walked over, their length is kept.
What is held is bounded too, for all files of a model together: a few bytes of a header become many of a program's.
The rules are those of llama.cpp's own reader (ggml/src/gguf.cpp), and bounds where it has none.
docs/adr/0013-own-bounded-gguf-reader.md says why it is our own.
"""

import dataclasses
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType, LlamaFileType

from stoker.bounded_reader import MAX_HEADER as MAX_HEADER
from stoker.bounded_reader import MAX_TENSORS as MAX_TENSORS
from stoker.bounded_reader import Allowance as Allowance
from stoker.bounded_reader import BoundedReader, truncated
from stoker.bounded_reader import GGUFError as GGUFError
from stoker.byte_source import ByteSource
from stoker.domain.architectures.describe import describe
from stoker.domain.architectures.projector import describe_projector
from stoker.domain.gguf import Header, MetadataArray, MetadataValue, ModelProfile, ProjectorProfile, TensorInfo

T = TypeVar("T")

READER_VERSION = 1  # of what a Header holds: raise it with every change, so that no cached one of before is taken

MAX_KEYS = 16_384
MAX_KEY_LENGTH = 65_535  # bytes, by the format's specification
MAX_NAME_LENGTH = 63  # bytes of a tensor's name: llama.cpp's GGML_MAX_NAME less the final zero
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20  # bytes
MAX_TENSOR_SIZE = 1 << 50  # bytes
KEPT_ITEMS = 4096  # elements of a numeric array; a longer one keeps its length only

_SCALARS = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"),
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.BOOL: struct.Struct("<?"),
    GGUFValueType.UINT64: struct.Struct("<Q"),
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}


def read_profile(sources: Sequence[ByteSource]) -> ModelProfile:
    """The model in `sources`: one file, or all shards of one model in order, of which the first holds the metadata.

    Raises GGUFError; what a source's `read` raises passes through.
    """
    allowance = Allowance()
    return profile_of([read_header(source, allowance) for source in sources])


def profile_of(headers: Sequence[Header]) -> ModelProfile:
    """The model that these headers describe: of one file, or of all its shards in order. Raises GGUFError."""
    return _described(headers, lambda metadata, tensors: describe(metadata, tensors, _file_type(metadata)))


def projector_of(headers: Sequence[Header]) -> ProjectorProfile:
    """The multimodal projector (mmproj) that these headers describe. Raises GGUFError."""
    return _described(headers, describe_projector)


def _described(headers: Sequence[Header], describe: Callable[[Mapping[str, MetadataValue], list[TensorInfo]], T]) -> T:
    _check_shards(headers)
    try:
        return describe(headers[0].metadata, [tensor for header in headers for tensor in header.tensors])
    except ValueError as error:
        raise GGUFError("invalid_gguf", str(error)) from error


def read_header(source: ByteSource, allowance: Allowance | None = None) -> Header:
    """The header of one GGUF file, checked against the file's size. Shards of one model share an `allowance`.

    Raises GGUFError; what the source's `read` raises passes through.
    """
    reader = BoundedReader(source, allowance or Allowance())
    version = _read_version(reader)
    tensor_count = reader.count("tensor count", MAX_TENSORS)
    reader.allowance.take("tensors", tensor_count)
    key_count = reader.count("key count", MAX_KEYS)
    metadata = _read_metadata(reader, key_count)
    alignment = _alignment(metadata)
    tensors = _read_tensors(reader, tensor_count, alignment)
    data_offset = _pad(reader.offset, alignment)
    if tensors and (end := data_offset + tensors[-1].offset + tensors[-1].size) > source.size:
        raise truncated(source.size, end)
    return Header(version=version, metadata=metadata, tensors=tensors, data_offset=data_offset)


def charged(header: Header, allowance: Allowance) -> Header:
    """A header that was read before, as reading it on this `allowance` gives it. Raises GGUFError."""
    allowance.take("tensors", len(header.tensors))
    metadata: dict[str, MetadataValue] = {}
    for key, value in header.metadata.items():
        allowance.take("bytes of keys", len(key.encode()))
        if isinstance(value, MetadataArray):
            allowance.take("array elements", len(value.items))
        length = len(value.encode()) if isinstance(value, str) else 0
        metadata[key] = value if allowance.may_keep(length) else MetadataArray(length=length)
    return dataclasses.replace(header, metadata=metadata)


def _file_type(metadata: Mapping[str, MetadataValue]) -> str:
    """The quantisation's name, as in file names (`Q4_K_M`); empty where the file does not say, or a newer one does."""
    number = metadata.get("general.file_type")
    names = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    return names.get(number, "") if isinstance(number, int) else ""


def _check_shards(headers: Sequence[Header]) -> None:
    count = headers[0].metadata.get("split.count", 1) or 1
    if count != len(headers):
        raise GGUFError("invalid_gguf", f"the model is split into {count} files, and {len(headers)} were given")
    if len(headers) == 1:
        return
    for index, header in enumerate(headers):
        number, of = header.metadata.get("split.no"), header.metadata.get("split.count")
        if (number, of) != (index, count):
            raise GGUFError(
                "invalid_gguf",
                f"shard {index + 1} of {count} calls itself number {number} (from 0) of {of}: "
                "the files are out of order or of different models",
            )
    names = [tensor.name for header in headers for tensor in header.tensors]
    if len(set(names)) != len(names) or headers[0].metadata.get("split.tensors.count", len(names)) != len(names):
        raise GGUFError(
            "invalid_gguf",
            f"the shards hold {len(names)} tensors, {len(set(names))} of different names, and should hold "
            f"{headers[0].metadata.get('split.tensors.count')}: they are of different models",
        )


def _read_version(reader: BoundedReader) -> int:
    if (magic := reader.take(4)) != b"GGUF":
        raise GGUFError("not_gguf", f"the file begins with {magic!r}: a GGUF file begins with b'GGUF'")
    version = reader.u32()
    if version and version & 0xFFFF == 0:
        raise GGUFError("unsupported_gguf", "the file is big-endian: only little-endian ones can be used")
    if version not in (2, 3):
        raise GGUFError("unsupported_gguf", f"the file is of GGUF version {version}: only 2 and 3 can be used")
    return version


def _read_metadata(reader: BoundedReader, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for index in range(count):
        what = f"key {index}"
        length = reader.count(f"the length of {what}", MAX_KEY_LENGTH)
        reader.allowance.take("bytes of keys", length)
        key = reader.text(what, length)
        if not key or key in metadata:
            raise GGUFError("invalid_gguf", f"{what}, {key[:80]!r}, is empty or there twice")
        metadata[key] = _read_value(reader, repr(key[:80]))
    return metadata


def _read_value(reader: BoundedReader, what: str) -> MetadataValue:
    kind = _value_type(reader, what)
    if kind is GGUFValueType.ARRAY:
        return _read_array(reader, what)
    if kind is GGUFValueType.STRING:
        length = reader.u64()
        if reader.allowance.may_keep(length):
            return reader.text(what, length)
        reader.skip(length)
        return MetadataArray(length=length)
    value: int | float | bool = _SCALARS[kind].unpack(reader.take(_SCALARS[kind].size))[0]
    return value


def _read_array(reader: BoundedReader, what: str) -> MetadataArray:
    kind, length = _value_type(reader, what), reader.u64()
    if kind is GGUFValueType.ARRAY:
        raise GGUFError("invalid_gguf", f"{what} is an array of arrays, which llama.cpp does not read")
    if kind is GGUFValueType.STRING:
        reader.skip_texts(length)
        return MetadataArray(length=length)
    element = _SCALARS[kind]
    if length > KEPT_ITEMS:
        reader.skip(length * element.size)
        return MetadataArray(length=length)
    reader.allowance.take("array elements", length)
    data = reader.take(length * element.size)
    return MetadataArray(length=length, items=tuple(item for (item,) in element.iter_unpack(data)))


def _value_type(reader: BoundedReader, what: str) -> GGUFValueType:
    number = reader.u32()
    try:
        return GGUFValueType(number)
    except ValueError as error:
        raise GGUFError("invalid_gguf", f"{what} has a value of the unknown type {number}") from error


def _alignment(metadata: dict[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GGUFError(
            "invalid_gguf", f"general.alignment is {alignment!r}: it must be a power of two to {MAX_ALIGNMENT}"
        )
    return alignment


def _read_tensors(reader: BoundedReader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: dict[str, TensorInfo] = {}
    expected = 0  # offset: tensors lie one after the other
    for index in range(count):
        tensor = _read_tensor(reader, f"tensor {index}")
        if tensor.name in tensors:
            raise GGUFError("invalid_gguf", f"tensor {index}, {tensor.name!r}, is there twice")
        if tensor.offset != expected:
            raise GGUFError("invalid_gguf", f"{tensor.name!r} is at {tensor.offset}: the one before ends at {expected}")
        tensors[tensor.name] = tensor
        expected = _pad(expected + tensor.size, alignment)
    return tuple(tensors.values())


def _read_tensor(reader: BoundedReader, what: str) -> TensorInfo:
    name = reader.text(what, reader.count(f"the length of the name of {what}", MAX_NAME_LENGTH))
    what = f"{what}, {name!r},"
    if not 1 <= (dimensions := reader.u32()) <= MAX_DIMENSIONS:
        raise GGUFError("invalid_gguf", f"{what} has {dimensions} dimensions: 1 to {MAX_DIMENSIONS} are allowed")
    shape = tuple(reader.u64() for _ in range(dimensions))
    number = reader.u32()
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise GGUFError("unsupported_gguf", f"{what} is of type {number}, which is not known here") from error
    block, block_size = GGML_QUANT_SIZES[kind]
    size = math.prod(shape) // block * block_size
    if shape[0] % block or not 0 < size <= MAX_TENSOR_SIZE:
        raise GGUFError("invalid_gguf", f"{what} has the shape {shape}, which type {kind.name} cannot have")
    return TensorInfo(name=name, shape=shape, type=kind.name, offset=reader.u64(), size=size)


def _pad(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
