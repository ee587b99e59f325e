"""The GGUF reader: what it says of good files, and that nothing but GGUFError comes of bad ones."""

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.bounded_reader import MAX_ITEMS, MAX_KEY_TEXT
from stoker.byte_source import FileSource
from stoker.domain.gguf import Header, MetadataArray, ModelProfile
from stoker.gguf_header import MAX_HEADER, MAX_TENSORS, Allowance, GGUFError, charged, read_header, read_profile
from tests.builders import write_tiny_llama

UINT8, UINT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 2, 4, 5, 6, 7, 8, 9, 10
F32, Q4_0 = 0, 2


class MemorySource:
    """Bytes in memory; counts what is read of them."""

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self._data, self.size, self.bytes_read = data, len(data) if size is None else size, 0

    def read(self, offset: int, length: int) -> bytes:
        part = self._data[offset : offset + length]
        self.bytes_read += len(part)
        return part


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def tensor(name: str | bytes, shape: tuple[int, ...] = (4,), kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@dataclass
class RawFile:
    """A GGUF file written byte by byte, so that any part of it can be wrong."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    key_count: int | None = None
    tensor_count: int | None = None
    data: bytes = bytes(64)

    def source(self) -> MemorySource:
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts) + b"".join(self.keys + self.tensors)
        return MemorySource(head + (bytes(-len(head) % 32) + self.data if self.data else b""))


def read(path: Path) -> ModelProfile:
    with FileSource(path) as source:
        return read_profile([source])


def refusal(source: MemorySource) -> GGUFError:
    with pytest.raises(GGUFError) as raised:
        read_header(source)
    return raised.value


# --- good files ------------------------------------------------------------------------------------------


def test_smollm2(smollm2: Path) -> None:
    profile = read(smollm2)
    assert (profile.architecture, profile.file_type) == ("llama", "Q4_1")
    assert profile.name == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert (profile.parameters, profile.vocabulary, profile.context_length) == (134_515_008, 49_152, 8192)
    assert (profile.embedding_length, profile.head_count, profile.block_count) == (576, 9, 30)
    assert (profile.key_length, profile.value_length) == (64, 64)
    assert (profile.has_chat_template, profile.pooling, profile.unsupported) == (True, False, "")
    assert (profile.input_weights, profile.output_weights) == (30_081_024, 2304)
    weights = profile.input_weights + profile.output_weights + sum(layer.weights for layer in profile.layers)
    assert weights == 96_576_768  # the file less its header of 1.7 MiB


def test_a_header_is_read_in_a_few_windows(smollm2: Path) -> None:
    source = MemorySource(smollm2.read_bytes())
    header = read_header(source)
    assert source.bytes_read < header.data_offset + 256 * 1024
    assert header.metadata["tokenizer.ggml.tokens"] == MetadataArray(length=49_152)
    assert header.metadata["tokenizer.ggml.token_type"] == MetadataArray(length=49_152)


@pytest.mark.parametrize("weight_type", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0])
def test_every_tensor_agrees_with_the_reference_reader(tmp_path: Path, weight_type: gguf.GGMLQuantizationType) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", weight_type=weight_type)
    with FileSource(path) as source:
        header = read_header(source)
    reference = gguf.GGUFReader(path)
    assert [(t.name, t.shape, t.type, header.data_offset + t.offset, t.size) for t in header.tensors] == [
        (t.name, tuple(t.shape.tolist()), t.tensor_type.name, t.data_offset, t.n_bytes) for t in reference.tensors
    ]


def test_a_tiny_model(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=2, architecture="qwen3", head_size=32, feed_forward=96)
    profile = read(path)
    norms = 2 * 64 * 4 + 2 * 32 * 4  # attention and feed-forward norm, Q norm and K norm: F32
    attention = 2 * (2 * 4 * 32 * 64 + 2 * 2 * 32 * 64)  # Q and output, K and V: F16
    weights = norms + attention + 2 * 3 * 64 * 96
    assert [(layer.weights, layer.key_width, layer.value_width) for layer in profile.layers] == [(weights, 64, 64)] * 2
    assert (profile.key_length, profile.value_length, profile.vocabulary) == (32, 32, 1024)
    assert (profile.input_weights, profile.output_weights) == (2 * 1024 * 64, 2 * 1024 * 64 + 4 * 64)
    assert (profile.file_type, profile.tied_weights, profile.unsupported) == ("F16", 0, "")


@pytest.mark.parametrize("max_tensors_per_file", [5, 9])
def test_shards_are_one_model(tmp_path: Path, max_tensors_per_file: int) -> None:
    whole = read(write_tiny_llama(tmp_path / "whole.gguf"))
    write_tiny_llama(tmp_path / "split.gguf", max_tensors_per_file=max_tensors_per_file)
    sources = [MemorySource(path.read_bytes()) for path in sorted(tmp_path.glob("split-*.gguf"))]
    assert len(sources) == -(-21 // max_tensors_per_file)
    assert read_profile(sources) == whole


@pytest.mark.parametrize(
    ("pick", "told"),
    [
        (lambda shards, other: [shards[0]], "split into 3 files, and 1 were given"),
        (lambda shards, other: [shards[0], shards[2], shards[1]], "shard 2 of 3 calls itself number 2"),
        (lambda shards, other: [shards[1]], "split into 3 files"),
        (lambda shards, other: [*shards, other], "split into 3 files, and 4 were given"),
        (lambda shards, other: [shards[0], shards[1], other], "shard 3 of 3 calls itself number None"),
        (lambda shards, other: [other, other], "split into 1 files, and 2 were given"),
    ],
)
def test_shards_that_do_not_belong_together(tmp_path: Path, pick: Callable[..., list[Path]], told: str) -> None:
    other = write_tiny_llama(tmp_path / "other.gguf")
    write_tiny_llama(tmp_path / "split.gguf", max_tensors_per_file=8)
    picked = pick(sorted(tmp_path.glob("split-*.gguf")), other)
    with pytest.raises(GGUFError, match=told) as raised:
        read_profile([MemorySource(path.read_bytes()) for path in picked])
    assert raised.value.code == "invalid_gguf"


def test_a_shard_of_another_model_is_noticed(tmp_path: Path) -> None:
    for stem, layers in (("one", 2), ("two", 3)):
        write_tiny_llama(tmp_path / f"{stem}.gguf", layers=layers, max_tensors_per_file=10)
    paths = [tmp_path / f"{stem}-0000{number}-of-00003.gguf" for stem, number in (("one", 1), ("one", 2), ("two", 3))]
    with pytest.raises(GGUFError, match="of different models"):
        read_profile([MemorySource(path.read_bytes()) for path in paths])


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "grüß")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("flags", [True, False])
    writer.add_array("words", ["a", "", "ccc"])
    writer.add_array("long", list(range(5000)))
    writer.add_uint32("last", 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(MemorySource((tmp_path / "all.gguf").read_bytes()))
    assert header.metadata == {
        "general.architecture": "llama",
        "u8": 200,
        "i8": -100,
        "u16": 60_000,
        "i16": -30_000,
        "i32": -(2**31),
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "text": "grüß",
        "numbers": MetadataArray(length=3, items=(1, 2, 3)),
        "flags": MetadataArray(length=2, items=(True, False)),
        "words": MetadataArray(length=3),
        "long": MetadataArray(length=5000),
        "last": 7,
    }


def test_a_text_too_long_to_keep_has_its_length() -> None:
    length = 2**20 + 1
    raw = RawFile(keys=[key("long", STRING, text(b"x" * length)), key("next", UINT32, struct.pack("<I", 5))])
    assert read_header(raw.source()).metadata == {"long": MetadataArray(length=length), "next": 5}


def test_other_versions_and_alignments() -> None:
    raw = RawFile(version=2, keys=[key("general.alignment", UINT32, struct.pack("<I", 64))], data=bytes(256))
    raw.tensors = [tensor("a", (3,)), tensor("b", (32, 2), Q4_0, offset=64)]
    header = read_header(raw.source())
    assert (header.version, header.data_offset % 64) == (2, 0)
    assert [(t.name, t.offset, t.size, t.elements) for t in header.tensors] == [("a", 0, 12, 3), ("b", 64, 36, 64)]


# --- hostile files ------------------------------------------------------------------------------------------

HUGE = 2**63
NUMBER = struct.pack("<I", 1)

HOSTILE: list[tuple[str, RawFile, str, str]] = [
    ("magic", RawFile(magic=b"GGML"), "not_gguf", "begins with b'GGML'"),
    ("text", RawFile(magic=b"vers"), "not_gguf", "begins with b'vers'"),
    ("version 0", RawFile(version=0), "unsupported_gguf", "version 0"),
    ("version 1", RawFile(version=1), "unsupported_gguf", "version 1"),
    ("version 4", RawFile(version=4), "unsupported_gguf", "version 4"),
    ("big-endian", RawFile(version=3 << 24), "unsupported_gguf", "big-endian"),
    ("tensor count", RawFile(tensor_count=HUGE), "invalid_gguf", f"tensor count is {HUGE}: at most 16384"),
    ("key count", RawFile(key_count=HUGE), "invalid_gguf", f"key count is {HUGE}: at most 16384"),
    ("keys missing", RawFile(key_count=9000, data=b""), "truncated_gguf", "cut short"),
    ("tensors missing", RawFile(tensor_count=9000, data=b""), "truncated_gguf", "cut short"),
    ("key length", RawFile(keys=[struct.pack("<Q", HUGE)]), "invalid_gguf", "the length of key 0"),
    ("key empty", RawFile(keys=[key("", UINT32, NUMBER)]), "invalid_gguf", "empty or there twice"),
    ("key twice", RawFile(keys=[key("a", UINT32, NUMBER)] * 2), "invalid_gguf", "'a', is empty or there twice"),
    ("key not UTF-8", RawFile(keys=[key(b"\xff\xfe", UINT32, NUMBER)]), "invalid_gguf", "key 0 is not UTF-8"),
    ("value type", RawFile(keys=[key("a", 13, NUMBER)]), "invalid_gguf", "unknown type 13"),
    ("text length", RawFile(keys=[key("a", STRING, struct.pack("<Q", HUGE))]), "truncated_gguf", "cut short"),
    ("text not UTF-8", RawFile(keys=[key("a", STRING, text(b"\xc3"))]), "invalid_gguf", "'a' is not UTF-8"),
    ("array of arrays", RawFile(keys=[key("a", ARRAY, array(ARRAY, 1))]), "invalid_gguf", "array of arrays"),
    ("array type", RawFile(keys=[key("a", ARRAY, array(99, 1))]), "invalid_gguf", "unknown type 99"),
    ("array length", RawFile(keys=[key("a", ARRAY, array(UINT64, HUGE))]), "truncated_gguf", "cut short"),
    ("texts count", RawFile(keys=[key("a", ARRAY, array(STRING, HUGE))]), "truncated_gguf", "cut short"),
    (
        "length of one text",
        RawFile(keys=[key("a", ARRAY, array(STRING, 3, struct.pack("<QQ", 0, HUGE)))]),
        "truncated_gguf",
        "cut short",
    ),
    *(
        (
            f"alignment {number}",
            RawFile(keys=[key("general.alignment", UINT32, struct.pack("<I", number))]),
            "invalid_gguf",
            "general.alignment",
        )
        for number in (0, 24, 2**31)
    ),
    ("alignment text", RawFile(keys=[key("general.alignment", STRING, text("32"))]), "invalid_gguf", "alignment"),
    ("alignment bool", RawFile(keys=[key("general.alignment", BOOL, b"\1")]), "invalid_gguf", "alignment"),
    ("tensor name", RawFile(tensors=[tensor("x" * 64)]), "invalid_gguf", "the name of tensor 0 is 64"),
    ("tensor name not UTF-8", RawFile(tensors=[tensor(b"\x80")]), "invalid_gguf", "not UTF-8"),
    ("tensor twice", RawFile(tensors=[tensor("a"), tensor("a", offset=32)]), "invalid_gguf", "'a', is there twice"),
    ("no dimensions", RawFile(tensors=[tensor("a", ())]), "invalid_gguf", "0 dimensions"),
    ("5 dimensions", RawFile(tensors=[tensor("a", (1,) * 5)]), "invalid_gguf", "5 dimensions"),
    ("dimension 0", RawFile(tensors=[tensor("a", (4, 0))]), "invalid_gguf", "shape"),
    ("dimensions overflow", RawFile(tensors=[tensor("a", (2**32, 2**32, 2**32))]), "invalid_gguf", "shape"),
    ("part of a block", RawFile(tensors=[tensor("a", (33,), Q4_0)]), "invalid_gguf", "type Q4_0"),
    ("tensor type", RawFile(tensors=[tensor("a", (4,), 4)]), "unsupported_gguf", "type 4"),
    ("first offset", RawFile(tensors=[tensor("a", offset=32)]), "invalid_gguf", "'a' is at 32"),
    ("overlap", RawFile(tensors=[tensor("a", (16,)), tensor("b", offset=32)]), "invalid_gguf", "ends at 64"),
    ("gap", RawFile(tensors=[tensor("a"), tensor("b", offset=64)]), "invalid_gguf", "'b' is at 64"),
    ("offset wraps", RawFile(tensors=[tensor("a", offset=2**64 - 32)]), "invalid_gguf", "'a' is at"),
    ("past the end", RawFile(tensors=[tensor("a", (17,))]), "truncated_gguf", "by its header it needs"),
]


@pytest.mark.parametrize(("raw", "code", "told"), [pytest.param(*case[1:], id=case[0]) for case in HOSTILE])
def test_hostile(raw: RawFile, code: str, told: str) -> None:
    error = refusal(raw.source())
    assert error.code == code
    assert told in str(error)


def test_a_header_without_end_is_left() -> None:
    raw = RawFile(keys=[key("a", ARRAY, array(STRING, MAX_HEADER))])
    source = raw.source()
    source.size = 2**50  # what a server may claim
    assert refusal(source).code == "invalid_gguf"


def test_a_header_that_would_take_much_more_memory_than_its_bytes() -> None:
    """Small numbers, wide texts, and many short names: each is many times larger as an object."""
    numbers = [key(f"n{n}", ARRAY, array(UINT8, 4096, b"\xff" * 4096)) for n in range(65)]
    error = refusal(RawFile(keys=numbers).source())
    assert (error.code, "too many array elements" in str(error)) == ("invalid_gguf", True)
    names = [key(f"{n:05d}" + "k" * 65_000, UINT32, NUMBER) for n in range(40)]
    error = refusal(RawFile(keys=names).source())
    assert (error.code, "too many bytes of keys" in str(error)) == ("invalid_gguf", True)
    texts = [key(f"t{n}", STRING, text("x" * 2**20)) for n in range(6)]
    kept = read_header(RawFile(keys=texts).source()).metadata.values()
    assert [type(value) for value in kept] == [str] * 4 + [MetadataArray] * 2


def test_a_header_that_was_read_before_counts_as_one_that_is_read() -> None:
    def filled(**counts: int) -> Allowance:
        allowance = Allowance()
        for what, count in counts.items():
            allowance.take(what.replace("_", " "), count)
        return allowance

    keys = [key("abc", ARRAY, array(UINT8, 3, b"abc")), key("def", STRING, text("x" * 2**20))]
    header = read_header(RawFile(keys=keys).source())
    assert charged(header, Allowance()) == header
    for what, limit in (("bytes_of_keys", MAX_KEY_TEXT), ("array_elements", MAX_ITEMS)):
        with pytest.raises(GGUFError, match=f"too many {what.replace('_', ' ')}"):
            charged(header, filled(**{what: limit - 1}))
    allowance = Allowance()
    kept = [charged(header, allowance).metadata["def"] for _ in range(5)]
    assert [type(value) for value in kept] == [str] * 4 + [MetadataArray]


def test_shards_share_what_they_may_hold() -> None:
    count = MAX_TENSORS // 2 + 1
    data = b"".join(tensor(f"{n:05d}", (1, 1, 1, 1), offset=32 * n) for n in range(count))
    head = b"GGUF" + struct.pack("<IQQ", 3, count, 0) + data
    allowance = Allowance()
    read_header(MemorySource(head, size=2**40), allowance)
    with pytest.raises(GGUFError, match="too many tensors"):
        read_header(MemorySource(head, size=2**40), allowance)


@pytest.mark.parametrize("name", ["x" * 20, "x" * 14 + "\U0001f600"])
def test_the_most_memory_that_a_header_can_take(name: str) -> None:
    """All limits used to the full at once: 64 MiB beside the bytes of the header."""
    wide = "\U0001f600" + "x" * (2**20 - 4)
    keys = [key(f"t{n}", STRING, text(wide)) for n in range(4)]
    keys += [key(f"n{n}", ARRAY, array(UINT16, 4096, b"\xff\x7f" * 4096)) for n in range(64)]
    keys += [key(f"k{n:03d}" + "y" * 20_000, UINT32, NUMBER) for n in range(100)]
    tensors = [tensor(f"{name}{n:05d}", (2**33, 1, 1, 300), 24, offset=n * 300 * 2**33) for n in range(MAX_TENSORS)]
    data = b"".join(keys + tensors)
    source = MemorySource(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + data, size=2**60)
    tracemalloc.start()
    try:
        read_header(source)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_a_source_that_ends_before_its_size() -> None:
    source = MemorySource(b"GGUF\3\0\0\0", size=10_000)
    assert refusal(source).code == "truncated_gguf"


def small_model() -> bytes:
    """A header with every kind of part, and its data: short enough to cut at each byte."""
    raw = RawFile(
        keys=[
            key("general.architecture", STRING, text("llama")),
            key("llama.block_count", UINT32, struct.pack("<I", 1)),
            key("scale", FLOAT32, struct.pack("<f", 1.0)),
            key("numbers", ARRAY, array(INT32, 3, struct.pack("<3i", 1, 2, 3))),
            key("words", ARRAY, array(STRING, 2, text("one") + text("two"))),
        ],
        tensors=[tensor("token_embd.weight", (4, 2)), tensor("blk.0.x.weight", (32,), Q4_0, offset=32)],
        data=bytes(50),
    )
    return raw.source().read(0, 10_000)


def test_cut_at_every_byte() -> None:
    whole = small_model()
    assert isinstance(read_header(MemorySource(whole)), Header)
    for end in range(len(whole)):
        assert refusal(MemorySource(whole[:end])).code == "truncated_gguf", end


@given(st.data())
def test_a_changed_byte_is_read_or_refused(data: st.DataObject) -> None:
    changed = bytearray(small_model())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(GGUFError):
        read_profile([MemorySource(bytes(changed))])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    refusal(MemorySource(b"GGUF\3\0\0\0" + noise if len(noise) % 2 else noise))


def test_a_file_that_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mmproj.gguf", "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match="a multimodal projector, not a model") as raised:
        read(tmp_path / "mmproj.gguf")
    assert raised.value.code == "invalid_gguf"
