"""Restarts: quick at first, patient later, and forgiving after a good run."""

import pytest

from stoker.domain.restarts import STEADY_AFTER_SECONDS, failures_after, restart_delay


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (10_000, 300)]
)
def test_delay(failures: int, seconds: float) -> None:
    assert restart_delay(failures) == seconds


@pytest.mark.parametrize(
    ("failures", "ran", "after"),
    [(0, 0, 1), (0, 5, 1), (3, 5, 4), (3, STEADY_AFTER_SECONDS, 1), (0, STEADY_AFTER_SECONDS * 2, 1)],
)
def test_failures_in_a_row(failures: int, ran: float, after: int) -> None:
    assert failures_after(failures, ran) == after
