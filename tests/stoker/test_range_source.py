"""Reading a remote file at offsets: the right bytes, in few requests."""

import hashlib
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.units import KIB, MIB
from stoker.range_source import FIRST_BLOCK, SHARD_BLOCK, RangeSource, ranged, read_range

SIZE = 24 * MIB + 17
CONTENT = hashlib.shake_128(b"content").digest(SIZE)


class Remote:
    """Hands out the content, and keeps which ranges were asked for."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def fetch(self, start: int, end: int) -> bytes:
        self.ranges.append((start, end))
        return CONTENT[start:end]


@given(st.lists(st.tuples(st.integers(0, SIZE + 5), st.integers(0, 2 * MIB)), min_size=1, max_size=6), st.booleans())
def test_any_read_gives_the_bytes_at_its_offset(reads: list[tuple[int, int]], shard: bool) -> None:
    remote = Remote()
    source = RangeSource(remote.fetch, SIZE, block=SHARD_BLOCK if shard else FIRST_BLOCK)
    for offset, length in reads:
        assert source.read(offset, length) == CONTENT[offset : offset + length]
    assert all(0 <= start < end <= SIZE for start, end in remote.ranges)


def read_all(source: RangeSource) -> None:
    for offset in range(0, SIZE, 64 * KIB):
        assert source.read(offset, 64 * KIB) == CONTENT[offset : offset + 64 * KIB]


@pytest.mark.parametrize(
    ("block", "largest", "kib"),
    [(FIRST_BLOCK, 8 * MIB, [768, 2304, 6912, 8192]), (SHARD_BLOCK, MIB, [64, 192, 576, 1024])],
)
def test_reading_on_takes_ever_larger_blocks(block: int, largest: int, kib: list[int]) -> None:
    remote = Remote()
    read_all(RangeSource(remote.fetch, SIZE, block=block))
    sizes = [end - start for start, end in remote.ranges]
    assert sizes[:4] == [size * KIB for size in kib]
    assert max(sizes) == largest
    assert sum(sizes) == SIZE, "nothing is read twice"


def test_what_is_here_already_is_not_asked_for() -> None:
    remote = Remote()
    read_all(RangeSource(remote.fetch, SIZE, start=CONTENT[:FIRST_BLOCK]))
    assert remote.ranges[0] == (FIRST_BLOCK, 4 * FIRST_BLOCK)


def test_what_is_passed_over_is_not_read() -> None:
    remote = Remote()
    source = RangeSource(remote.fetch, SIZE)
    source.read(0, 8)
    source.read(20 * MIB, 8)
    assert [start for start, _ in remote.ranges] == [0, 20 * MIB]


# --- the answer to a range request ------------------------------------------------------------------------------------


def answer(status: int, content: bytes, **headers: str) -> httpx2.Response:
    pieces: Callable[[], object] = lambda: (content[at : at + 1000] for at in range(0, len(content), 1000))  # noqa: E731
    request = httpx2.Request("GET", "http://models.test/m.gguf")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=named, content=pieces(), request=request)


def soon() -> float:
    return time.monotonic() + 60


def test_what_is_asked_for() -> None:
    assert ranged(100, 200) == {"Range": "bytes=100-199", "Accept-Encoding": "identity"}


@pytest.mark.parametrize(("start", "end"), [(0, 10), (990, 1010), (1000, 5000), (2999, 3000), (0, 9000)])
def test_a_server_with_ranges_and_one_without(start: int, end: int) -> None:
    whole = CONTENT[:10_000]
    assert read_range(answer(206, whole[start:end]), start, end, soon()) == whole[start:end]
    assert read_range(answer(200, whole), start, end, soon()) == whole[start:end]


def test_more_than_was_asked_for_is_left() -> None:
    assert read_range(answer(206, CONTENT[:5000]), 0, 1500, soon()) == CONTENT[:1500]


def test_an_answer_that_ends_early_is_short() -> None:
    assert read_range(answer(206, CONTENT[:700]), 0, 1500, soon()) == CONTENT[:700]


def test_the_deadline_ends_it() -> None:
    with pytest.raises(TimeoutError):
        read_range(answer(206, CONTENT[:5000]), 0, 5000, time.monotonic() - 1)


def test_a_packed_answer_is_refused_unread() -> None:
    with pytest.raises(httpx2.DecodingError, match="gzip"):
        read_range(answer(206, b"\x1f\x8b", content_encoding="gzip"), 0, 100, soon())


@pytest.mark.parametrize(
    ("status", "length", "to_the_end"), [(206, 1500, True), (206, 5000, False), (200, 1500, False)]
)
def test_an_answer_that_ends_is_read_to_its_end(status: int, length: int, to_the_end: bool) -> None:
    """Only then can its connection be used again; what goes on is left."""
    ended = []

    def pieces() -> Iterator[bytes]:
        yield from (CONTENT[at : at + 500] for at in range(0, length, 500))
        ended.append(True)

    request = httpx2.Request("GET", "http://models.test/m.gguf")
    response = httpx2.Response(status, headers={"Content-Length": str(length)}, content=pieces(), request=request)
    assert read_range(response, 0, 1500, soon()) == CONTENT[:1500]
    assert bool(ended) is to_the_end
