"""The arithmetic of limits, against what one would write without thinking of speed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.keys import KeyLimits
from stoker.domain.rate_limits import (
    BUCKETS,
    WINDOW_SECONDS,
    Refusal,
    correction,
    duration_text,
    emptied,
    month_begins,
    month_of,
    refusals,
    seconds_until_empty,
    seconds_until_room,
)

NOTHING: dict[str, int] = {"requests": 0, "used": 0, "in_flight": 0, "month_used": 0, "month_held": 0}

counts = st.lists(st.integers(min_value=0, max_value=20), min_size=BUCKETS, max_size=BUCKETS)


@pytest.mark.parametrize(
    ("limits", "tokens", "standing", "expected"),
    [
        ({}, 10**9, {"requests": 10**9, "used": 10**9, "in_flight": 10**9, "month_used": 10**9}, ()),
        ({"requests_per_minute": 2}, 0, {"requests": 1}, ()),
        ({"requests_per_minute": 2}, 0, {"requests": 2}, (Refusal.REQUESTS,)),
        ({"tokens_per_minute": 100}, 40, {"used": 60}, ()),
        ({"tokens_per_minute": 100}, 41, {"used": 60}, (Refusal.TOKENS,)),
        ({"tokens_per_minute": 100}, 101, {}, (Refusal.TOO_LARGE,)),
        ({"tokens_per_minute": 100}, 0, {"used": 130}, (Refusal.TOKENS,)),
        ({"concurrency": 3}, 0, {"in_flight": 2}, ()),
        ({"concurrency": 3}, 0, {"in_flight": 3}, (Refusal.CONCURRENCY,)),
        ({"tokens_per_month": 100}, 50, {"month_used": 20, "month_held": 30}, ()),
        ({"tokens_per_month": 100}, 51, {"month_used": 20, "month_held": 30}, (Refusal.MONTH_HELD,)),
        ({"tokens_per_month": 100}, 81, {"month_used": 20, "month_held": 30}, (Refusal.MONTH,)),
        ({"tokens_per_month": 100}, 0, {"month_used": 101}, (Refusal.MONTH,)),
        (
            {"requests_per_minute": 1, "tokens_per_minute": 1, "concurrency": 1, "tokens_per_month": 1},
            1,
            {"requests": 1, "used": 1, "in_flight": 1, "month_used": 1},
            (Refusal.MONTH, Refusal.TOKENS, Refusal.REQUESTS, Refusal.CONCURRENCY),
        ),
    ],
)
def test_refusals(limits: dict[str, int], tokens: int, standing: dict[str, int], expected: tuple[Refusal, ...]) -> None:
    assert refusals(KeyLimits(**limits), tokens, **(NOTHING | standing)) == expected


def test_a_bucket_counts_for_a_whole_minute_at_least() -> None:
    """What came at 9.99 must count until 69.99: with 60 buckets its second would be forgotten at 69."""
    assert 9 % BUCKETS not in {second % BUCKETS for second in emptied(9, 69)}
    assert 9 % BUCKETS in {second % BUCKETS for second in emptied(9, 70)}
    assert BUCKETS == WINDOW_SECONDS + 1


@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=0, max_value=300))
def test_emptied_are_the_buckets_of_all_seconds_that_have_come(last: int, passed: int) -> None:
    now = last + passed
    written = {second % BUCKETS: second for second in range(last - BUCKETS + 1, last + 1)}  # what each one holds
    for second in emptied(last, now):
        written.pop(second % BUCKETS, None)
    assert set(written.values()) == set(range(now - BUCKETS + 1, last + 1))
    assert len(emptied(last, now)) <= BUCKETS


@pytest.mark.parametrize(
    ("reserved", "used", "age", "expected"),
    [
        (100, 30, 0, (-70, 0)),
        (100, 30, BUCKETS - 1, (-70, 0)),
        (100, 30, BUCKETS, (0, 0)),  # its reservation counts no longer
        (100, 100, 5, (0, 0)),
        (100, 130, 5, (0, 30)),
        (100, 130, 500, (0, 30)),
        (100, 0, 1, (-100, 0)),
        (100, 30, -1, (0, 0)),
    ],
)
def test_a_settlement_gives_back_there_and_charges_here(
    reserved: int, used: int, age: int, expected: tuple[int, int]
) -> None:
    assert correction(reserved, used, age) == expected


@given(counts, st.integers(min_value=-5, max_value=2000))
def test_room_is_when_enough_has_left(buckets: list[int], missing: int) -> None:
    found = seconds_until_room(buckets, missing)
    enough = [second for second in range(1, BUCKETS + 1) if sum(buckets[:second]) >= missing]
    assert found == (enough[0] if enough else BUCKETS)


@given(counts)
def test_a_window_is_empty_when_its_last_count_has_left(buckets: list[int]) -> None:
    found = seconds_until_empty(buckets)
    assert not any(buckets[found:])
    assert found == 0 or buckets[found - 1]


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_months(moment: datetime) -> None:
    month = month_of(moment.timestamp())
    assert month_begins(month) <= moment < month_begins(month + 1)
    assert (month_begins(month) - timedelta(seconds=1)).month != moment.month
    assert month_of(month_begins(month + 1).timestamp()) == month + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.0165, "17ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.952, "59.952s"),
        (60, "1m0s"),
        (60.25, "1m0.25s"),
        (360, "6m0s"),
    ],
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_every_limit_has_its_refusal() -> None:
    """A limit that is added to a key and forgotten here would be none."""
    everything: dict[str, Any] = dict.fromkeys(KeyLimits.model_fields, 1)
    for name in everything:
        assert refusals(KeyLimits(**{name: 1}), 1, **dict.fromkeys(NOTHING, 1)), name
