"""The arithmetic of a key's limits: a sliding minute in buckets of a second, requests at once, a month's tokens.

Requests count in the second in which they were let in; their tokens too: first as many as were reserved, then, when
the request is over, as many as it used. What it used beyond its reservation counts in the second of its end.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

from stoker.domain.keys import KeyLimits

WINDOW_SECONDS = 60

BUCKETS = WINDOW_SECONDS + 1
"""One more than the window has seconds: the present one has only begun, and so the oldest must still count whole.

With 60, what came at the end of the oldest second would be forgotten after 59 seconds and a bit.
"""

MOMENTARY_SECONDS = 1.0
"""To wait for what ends with another request, which nobody can foretell."""


class Refusal(StrEnum):
    """Why a request is not let in now."""

    REQUESTS = "requests"  # of the minute
    TOKENS = "tokens"  # of the minute
    TOO_LARGE = "too_large"  # it may take more tokens than a minute has
    CONCURRENCY = "concurrency"
    MONTH_HELD = "month_held"  # requests now worked on hold what is left of the month; some of it may come back
    MONTH = "month"  # too few tokens are left of it


def refusals(
    limits: KeyLimits, tokens: int, *, requests: int, used: int, in_flight: int, month_used: int, month_held: int
) -> tuple[Refusal, ...]:
    """Every reason not to let in a request that may take `tokens`; none: it may go on.

    `requests` and `used` tokens are those of the window, `in_flight` the requests now worked on; `month_used` are the
    month's tokens of requests that are over, `month_held` those reserved for the ones that are not.
    """
    found: tuple[Refusal, ...] = ()
    limit = limits.tokens_per_month
    if limit is not None and month_used + month_held + tokens > limit:
        found += (Refusal.MONTH if month_used + tokens > limit else Refusal.MONTH_HELD,)
    limit = limits.tokens_per_minute
    if limit is not None and used + tokens > limit:
        found += (Refusal.TOO_LARGE if tokens > limit else Refusal.TOKENS,)
    limit = limits.requests_per_minute
    if limit is not None and requests >= limit:
        found += (Refusal.REQUESTS,)
    limit = limits.concurrency
    if limit is not None and in_flight >= limit:
        found += (Refusal.CONCURRENCY,)
    return found


def emptied(last: int, now: int) -> range:
    """The seconds whose buckets are emptied when second `now` begins and `last` was the one before that counted."""
    return range(max(last, now - BUCKETS) + 1, now + 1)


def correction(reserved: int, used: int, age: int) -> tuple[int, int]:
    """What a request's end changes: (in the bucket in which it was let in, `age` seconds ago; in the present one)."""
    if used > reserved:
        return 0, used - reserved
    return (used - reserved if 0 <= age < BUCKETS else 0), 0


def seconds_until_room(buckets: Iterable[int], missing: int) -> int:
    """The number of the coming second with whose beginning `missing` of what counts now counts no longer.

    `buckets` are the window's, oldest first; 1 is the next second. More than all of them together: BUCKETS.
    """
    for second, count in enumerate(buckets, 1):
        missing -= count
        if missing <= 0:
            return second
    return BUCKETS


def seconds_until_empty(buckets: Iterable[int]) -> int:
    """The number of the coming second with whose beginning nothing counts any more; 0 where nothing does now."""
    return max((second for second, count in enumerate(buckets, 1) if count), default=0)


def month_of(moment: float) -> int:
    """The number of the calendar month (UTC) that a moment (Unix seconds) lies in: one more than the month before."""
    date = datetime.fromtimestamp(moment, UTC)
    return date.year * 12 + date.month - 1


def month_begins(month: int) -> datetime:
    """When a month begins."""
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


def duration_text(seconds: float) -> str:
    """A time as OpenAI's rate limit headers write it, rounded up to milliseconds: `17ms`, `1.5s`, `1m0s`, `6m0.25s`."""
    milliseconds = max(0, math.ceil(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes}m{milliseconds / 1000:g}s" if minutes else f"{milliseconds / 1000:g}s"
