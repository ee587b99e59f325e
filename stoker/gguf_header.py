"""Reads GGUF headers, from files and from anything else that can be read at an offset.

A model file is hostile input: every count, length and nesting is bounded before it is believed, and each tensor must
lie inside the file. Nothing is held that is not needed: a tokenizer's word lists are walked over, their length is kept.
What is held is bounded too, for all files of a model together: a few bytes of a header become many of a program's.
The rules are those of llama.cpp's own reader (ggml/src/gguf.cpp), and bounds where it has none.
docs/adr/0013-own-bounded-gguf-reader.md says why it is our own.
"""

import math
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType, LlamaFileType

from stoker.byte_source import ByteSource
from stoker.domain.architectures.describe import describe
from stoker.domain.architectures.projector import describe_projector
from stoker.domain.gguf import Header, MetadataArray, MetadataValue, ModelProfile, ProjectorProfile, TensorInfo

T = TypeVar("T")

READER_VERSION = 1  # of what a Header holds: raise it with every change, so that no cached one of before is taken

MAX_HEADER = 64 << 20  # bytes; a vocabulary of 262,144 words with its merges takes some 20 MiB
MAX_KEYS = 16_384
MAX_TENSORS = 16_384  # of all files of a model; the largest published ones have some 2,500
MAX_KEY_LENGTH = 65_535  # bytes, by the format's specification
MAX_NAME_LENGTH = 63  # bytes of a tensor's name: llama.cpp's GGML_MAX_NAME less the final zero
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20  # bytes
MAX_TENSOR_SIZE = 1 << 50  # bytes
MAX_KEY_TEXT = 2 << 20  # bytes of all keys of a model; each may take four times that in memory
KEPT_TEXT = 1 << 20  # bytes; a longer text keeps its length only
KEPT_TEXTS = 4 << 20  # bytes of all texts of a model: those that come after it keep their length only
KEPT_ITEMS = 4096  # elements of a numeric array; a longer one keeps its length only
MAX_ITEMS = 1 << 18  # elements kept of all arrays of a model; a byte of one becomes up to 40
WINDOW = 64 << 10  # bytes read at once

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: _U32,
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.BOOL: struct.Struct("<?"),
    GGUFValueType.UINT64: _U64,
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}


class GGUFError(Exception):
    """A file that cannot be used as a GGUF model.

    `code`: not_gguf, truncated_gguf (it ends before its header says), invalid_gguf, or unsupported_gguf (big-endian, of
    another version of the format, or with a tensor type that is not known here).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


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


class Allowance:
    """What the headers of one model may still hold together. Several threads may read on one allowance."""

    def __init__(self) -> None:
        self._left = {"tensors": MAX_TENSORS, "bytes of keys": MAX_KEY_TEXT, "array elements": MAX_ITEMS}
        self._texts = KEPT_TEXTS
        self._lock = threading.Lock()

    def take(self, what: str, count: int) -> None:
        """Uses up `count` of it. Raises GGUFError where that is more than is left."""
        with self._lock:
            self._left[what] -= count
            if self._left[what] < 0:
                raise GGUFError(
                    "invalid_gguf", f"the header holds too many {what}: {-self._left[what]} above the limit"
                )

    def may_keep(self, length: int) -> bool:
        """Whether a text of `length` bytes may be kept; then it counts."""
        with self._lock:
            if length > min(KEPT_TEXT, self._texts):
                return False
            self._texts -= length
            return True


def read_header(source: ByteSource, allowance: Allowance | None = None) -> Header:
    """The header of one GGUF file, checked against the file's size. Shards of one model share an `allowance`.

    Raises GGUFError; what the source's `read` raises passes through.
    """
    reader = _Reader(source, allowance or Allowance())
    version = _read_version(reader)
    tensor_count = reader.count("tensor count", MAX_TENSORS)
    reader.allowance.take("tensors", tensor_count)
    key_count = reader.count("key count", MAX_KEYS)
    metadata = _read_metadata(reader, key_count)
    alignment = _alignment(metadata)
    tensors = _read_tensors(reader, tensor_count, alignment)
    data_offset = _pad(reader.offset, alignment)
    if tensors and (end := data_offset + tensors[-1].offset + tensors[-1].size) > source.size:
        raise _truncated(source.size, end)
    return Header(version=version, metadata=metadata, tensors=tensors, data_offset=data_offset)


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


class _Reader:
    """Walks forward over a source in windows; leaves neither the file nor the longest header."""

    def __init__(self, source: ByteSource, allowance: Allowance) -> None:
        self._source = source
        self.allowance = allowance
        self._window = b""
        self._start = 0  # of the window, in the source
        self.offset = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        at = self._at(length)
        self.offset += length
        return self._window[at : at + length]

    def skip(self, length: int) -> None:
        """Passes over `length` bytes without reading them."""
        self._check(length)
        self.offset += length

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def count(self, what: str, maximum: int) -> int:
        """A number of things, refused above `maximum`."""
        if (count := self.u64()) > maximum:
            raise GGUFError("invalid_gguf", f"{what} is {count}: at most {maximum} is taken")
        return count

    def text(self, what: str, length: int) -> str:
        """A text of `length` bytes, which must be UTF-8."""
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise GGUFError("invalid_gguf", f"{what} is not UTF-8: {error}") from error

    def skip_texts(self, count: int) -> None:
        """Passes over `count` texts, each with its length before it."""
        self._check(8 * count)
        length_at, passed = _U64.unpack_from, 0
        while passed < count:
            at = start = self._at(8)
            window, last = self._window, len(self._window) - 8
            while at <= last and passed < count:
                at += 8 + length_at(window, at)[0]
                passed += 1
            self.skip(at - start)

    def _at(self, length: int) -> int:
        """Where in the window the next `length` bytes are, read if they were not yet."""
        at = self.offset - self._start
        if at + length <= len(self._window):
            return at
        self._check(length)
        wanted = min(max(length, WINDOW), self._source.size - self.offset)
        self._window, self._start = self._source.read(self.offset, wanted), self.offset
        if len(self._window) < length:
            raise GGUFError("truncated_gguf", f"the file ended at byte {self.offset + len(self._window)} of its header")
        return 0

    def _check(self, length: int) -> None:
        end = self.offset + length
        if end > self._source.size:
            raise _truncated(self._source.size, end)
        if end > MAX_HEADER:
            raise GGUFError("invalid_gguf", f"the header goes on to byte {end}: at most {MAX_HEADER} are read")


def _truncated(size: int, needed: int) -> GGUFError:
    return GGUFError(
        "truncated_gguf",
        f"the file has {size} bytes, and by its header it needs {needed}: it was cut short, or is still being written",
    )


def _read_version(reader: _Reader) -> int:
    if (magic := reader.take(4)) != b"GGUF":
        raise GGUFError("not_gguf", f"the file begins with {magic!r}: a GGUF file begins with b'GGUF'")
    version = reader.u32()
    if version and version & 0xFFFF == 0:
        raise GGUFError("unsupported_gguf", "the file is big-endian: only little-endian ones can be used")
    if version not in (2, 3):
        raise GGUFError("unsupported_gguf", f"the file is of GGUF version {version}: only 2 and 3 can be used")
    return version


def _read_metadata(reader: _Reader, count: int) -> dict[str, MetadataValue]:
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


def _read_value(reader: _Reader, what: str) -> MetadataValue:
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


def _read_array(reader: _Reader, what: str) -> MetadataArray:
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


def _value_type(reader: _Reader, what: str) -> GGUFValueType:
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


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
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


def _read_tensor(reader: _Reader, what: str) -> TensorInfo:
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
