"""Restarts: quick at first, patient later, and forgiving after a good run."""

import pytest

from stoker.domain.restarts import failures_after, patience_after, restart_delay


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (10_000, 300)]
)
def test_delay(failures: int, seconds: float) -> None:
    assert restart_delay(failures) == seconds


@pytest.mark.parametrize(
    ("failures", "ran", "after"),
    [(0, 0, 1), (0, 5, 1), (3, 14.9, 4), (3, 15, 3), (3, 30, 2), (6, 40, 5), (3, 45, 1), (0, 1200, 1)],
)
def test_failures_in_a_row(failures: int, ran: float, after: int) -> None:
    assert failures_after(failures, ran) == after


def test_what_stays_up_for_half_a_minute_never_waits_long() -> None:
    failures = 0
    for _ in range(20):
        failures = failures_after(failures, 30)
    assert restart_delay(failures) == 1


@pytest.mark.parametrize(("frozen", "patience"), [(0, 1), (1, 2), (2, 4), (6, 64), (10_000, 64)])
def test_patience(frozen: int, patience: int) -> None:
    assert patience_after(frozen) == patience
