"""A remote file, read at any offset by HTTP range requests."""

import time
from collections.abc import Callable
from http import HTTPStatus

import httpx2

from stoker.domain.units import KIB, MIB

FIRST_BLOCK = 768 * KIB  # bytes: the whole header of a model with a small vocabulary
SHARD_BLOCK = 64 * KIB  # bytes: a shard behind the first lists tensors and little else
GROWTH = 3
LARGEST_BLOCK = 8 * MIB

Fetch = Callable[[int, int], bytes]
"""The bytes from the first offset to before the second: all of them, or it raises."""


class RangeSource:
    """Satisfies `byte_source.ByteSource`. Reads ahead, in blocks that grow from `block` bytes to at most LARGEST_BLOCK.

    A header is a few KiB or, with a large vocabulary, some MiB, and its end is known only when it is reached: growing
    keeps both the requests and what is read in vain few. `start`: the file's first bytes, where they are here already.
    """

    def __init__(self, fetch: Fetch, size: int, *, start: bytes = b"", block: int = FIRST_BLOCK) -> None:
        self.size = size
        self._fetch = fetch
        self._ahead = GROWTH * block if start else block
        self._largest = min(LARGEST_BLOCK, 16 * block)
        self._start, self._block = 0, start

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`; fewer only where the file ends. Raises what fetching raises."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if not (self._start <= offset and end <= self._start + len(self._block)):
            self._block = b""  # before the next one comes: there is never more than one in memory
            last = min(max(end, offset + self._ahead), self.size)
            self._start, self._block = offset, self._fetch(offset, last)
            self._ahead = min(GROWTH * self._ahead, self._largest)
        return self._block[offset - self._start : end - self._start]


def ranged(start: int, end: int) -> dict[str, str]:
    """The request headers that ask for the bytes from `start` to before `end`, as they are in the file."""
    return {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}  # a packed body has other offsets


def read_range(response: httpx2.Response, start: int, end: int, deadline: float) -> bytes:
    """The bytes from `start` to before `end` out of the answer to `ranged(start, end)`; fewer where it ends before.

    A server that knows no ranges sends the whole file: what comes before is skipped, what comes after is left.
    `deadline` is of `time.monotonic`. Raises what the HTTP session raises, and TimeoutError.
    """
    if (packed := response.headers.get("content-encoding", "identity")) != "identity":
        raise httpx2.DecodingError(f"the server packs what it sends ({packed}), though it was told not to")
    partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
    # Such an answer ends by itself, and read to its end it leaves its connection for the next request.
    ends = partial and response.headers.get("content-length") == str(end - start)
    skip = 0 if partial else start
    received = bytearray()
    for chunk in response.iter_raw():
        received += chunk[skip : skip + end - start - len(received)]
        skip = max(0, skip - len(chunk))
        if len(received) == end - start and not ends:
            break
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(received)
