"""Walking over bytes in windows: the same bytes as at once, and never beyond a limit."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.bounded_reader import (
    KEPT_TEXT,
    KEPT_TEXTS,
    MAX_HEADER,
    MAX_ITEMS,
    WINDOW,
    Allowance,
    BoundedReader,
    GGUFError,
)


class Source:
    """Bytes in memory, and which of them were asked for."""

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self._data, self.size = data, len(data) if size is None else size
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self._data[offset : offset + length]


def reader(source: Source) -> BoundedReader:
    return BoundedReader(source, Allowance())


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=12))
def test_texts_are_passed_over_whatever_windows_they_lie_in(lengths: list[int]) -> None:
    data = b"".join(struct.pack("<Q", length) + b"x" * length for length in lengths) + b"end!"
    source = Source(data)
    walking = reader(source)
    walking.skip_texts(len(lengths))
    assert walking.take(4) == b"end!"
    assert all(length <= WINDOW for _, length in source.reads)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, WINDOW + 9)), max_size=20))
def test_taking_and_skipping(steps: list[tuple[bool, int]]) -> None:
    data = bytes(index % 251 for index in range(10 * WINDOW))
    walking, at = reader(Source(data)), 0
    for take, length in steps:
        if at + length > len(data):
            with pytest.raises(GGUFError):
                walking.take(length)
            return
        if take:
            assert walking.take(length) == data[at : at + length]
        else:
            walking.skip(length)
        at += length
        assert walking.offset == at


def test_what_is_skipped_is_not_read() -> None:
    source = Source(bytes(10 * WINDOW))
    walking = reader(source)
    walking.take(1)
    walking.skip(8 * WINDOW)
    walking.take(1)
    assert [offset for offset, _ in source.reads] == [0, 8 * WINDOW + 1]


def test_neither_the_file_nor_the_longest_header_is_left() -> None:
    with pytest.raises(GGUFError, match="cut short") as raised:
        reader(Source(bytes(100))).skip(101)
    assert raised.value.code == "truncated_gguf"
    with pytest.raises(GGUFError, match=f"at most {MAX_HEADER}") as raised:
        reader(Source(b"", size=2**60)).skip(MAX_HEADER + 1)
    assert raised.value.code == "invalid_gguf"
    with pytest.raises(GGUFError, match="ended at byte 3 of its header"):
        reader(Source(b"abc", size=2**40)).take(4)


def test_numbers_and_texts() -> None:
    data = struct.pack("<IQQ", 2**32 - 1, 2**64 - 1, 7) + "grüß".encode() + b"\xff"
    walking = reader(Source(data))
    assert (walking.u32(), walking.u64(), walking.count("it", 7)) == (2**32 - 1, 2**64 - 1, 7)
    assert walking.text("it", 6) == "grüß"
    with pytest.raises(GGUFError, match="it is not UTF-8"):
        walking.text("it", 1)
    with pytest.raises(GGUFError, match="it is 8: at most 7"):
        reader(Source(struct.pack("<Q", 8))).count("it", 7)


def test_an_allowance_is_used_up() -> None:
    allowance = Allowance()
    allowance.take("array elements", MAX_ITEMS - 1)
    allowance.take("array elements", 1)
    with pytest.raises(GGUFError, match="too many array elements: 5 above the limit"):
        allowance.take("array elements", 5)
    assert not allowance.may_keep(KEPT_TEXT + 1), "one alone is too long"
    kept = [allowance.may_keep(KEPT_TEXT) for _ in range(KEPT_TEXTS // KEPT_TEXT + 1)]
    assert kept == [True] * (len(kept) - 1) + [False]
    assert allowance.may_keep(0)
