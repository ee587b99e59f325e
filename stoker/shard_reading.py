"""The headers of all files of one model, read side by side: a shard's header is one round trip, whatever its size."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 8


def side_by_side(read: Callable[[int], T], count: int) -> list[T]:
    """`read(0)` to `read(count - 1)`, at most AT_ONCE at a time. Raises what the first that fails raises.

    What has begun is waited for, the rest is not begun: `read` must have a deadline of its own.
    """
    if count == 1:
        return [read(0)]
    with ThreadPoolExecutor(min(AT_ONCE, count), thread_name_prefix="shards") as threads:
        return list(threads.map(read, range(count)))
