"""One record of the counter file: what its words mean, and how it is kept true.

A record is changed between `begin` and `end` only, under its lock. Who is killed in between leaves the mark: the next
one sets the record right. The buckets and the processes' own counts are what holds then; their sums are made anew.
"""

from api.limits.counter_file import SLOTS
from stoker.domain.rate_limits import BUCKETS, emptied

CHANGING = 1  # 1 while it is changed; word 0 says whose it is
LAST_SECOND = 2  # the last second in which something was counted, by the host's monotonic clock
REQUESTS = 3  # the sum of the requests' buckets
TOKENS = 4  # the sum of the tokens' buckets
IN_FLIGHT = 5  # the sum of the processes' requests now worked on
HELD = 6  # the sum of the tokens that are reserved for these
MONTH = 7  # its number; see rate_limits.month_of
MONTH_USED = 8  # its tokens, of requests that are over
REQUEST_BUCKETS = 16  # second % BUCKETS
TOKEN_BUCKETS = REQUEST_BUCKETS + BUCKETS
SLOT_IN_FLIGHT = TOKEN_BUCKETS + BUCKETS
SLOT_HELD = SLOT_IN_FLIGHT + SLOTS

_SUMS = (
    (REQUESTS, REQUEST_BUCKETS, BUCKETS),
    (TOKENS, TOKEN_BUCKETS, BUCKETS),
    (IN_FLIGHT, SLOT_IN_FLIGHT, SLOTS),
    (HELD, SLOT_HELD, SLOTS),
)
_LARGEST = 1 << 53  # of what can be a count


def begin(record: memoryview) -> None:
    """What follows changes the record."""
    if record[CHANGING]:
        set_right(record)
    record[CHANGING] = 1


def end(record: memoryview) -> None:
    """The record is true again."""
    record[CHANGING] = 0


def move_to(record: memoryview, second: int) -> None:
    """Empties what has left the window at `second`."""
    last = record[LAST_SECOND]
    if second > last:
        for gone in emptied(last, second):
            bucket = gone % BUCKETS
            if record[REQUEST_BUCKETS + bucket]:
                record[REQUESTS] -= record[REQUEST_BUCKETS + bucket]
                record[REQUEST_BUCKETS + bucket] = 0
            if record[TOKEN_BUCKETS + bucket]:
                record[TOKENS] -= record[TOKEN_BUCKETS + bucket]
                record[TOKEN_BUCKETS + bucket] = 0
        record[LAST_SECOND] = second
    elif second < last:  # the host has started anew, and its clock: how long ago that was, nobody knows
        _gather(record, second)
        record[LAST_SECOND] = second


def window(record: memoryview, buckets: int, second: int) -> list[int]:
    """The counts of REQUEST_BUCKETS or TOKEN_BUCKETS, oldest first; the last is that of `second`."""
    found: list[int] = record[buckets : buckets + BUCKETS].tolist()
    oldest = (second + 1) % BUCKETS
    return found[oldest:] + found[:oldest]


def holders(record: memoryview) -> list[int]:
    """The slots of the processes that work on requests."""
    counts = record[SLOT_IN_FLIGHT : SLOT_IN_FLIGHT + SLOTS].tolist()
    return [slot for slot, count in enumerate(counts) if count]


def drop_slot(record: memoryview, slot: int) -> None:
    """Gives back what the process in this slot held."""
    in_flight, held = record[SLOT_IN_FLIGHT + slot], record[SLOT_HELD + slot]
    record[SLOT_IN_FLIGHT + slot] = record[SLOT_HELD + slot] = 0
    record[IN_FLIGHT] -= in_flight
    record[HELD] -= held


def set_right(record: memoryview) -> None:
    """Makes the sums anew from what they are sums of; what cannot be a count is none."""
    record[CHANGING] = 1
    for total, first, length in _SUMS:
        for word in range(first, first + length):
            if not 0 <= record[word] <= _LARGEST:
                record[word] = 0
        record[total] = sum(record[first : first + length])
    for word in (LAST_SECOND, MONTH, MONTH_USED):
        if not 0 <= record[word] <= _LARGEST:
            record[word] = 0
    record[CHANGING] = 0


def _gather(record: memoryview, second: int) -> None:
    """Moves the whole window into one second."""
    present = second % BUCKETS
    for total, first in ((REQUESTS, REQUEST_BUCKETS), (TOKENS, TOKEN_BUCKETS)):
        record[first + present] = record[total]
        for bucket in range(BUCKETS):
            if bucket != present:
                record[first + bucket] = 0
