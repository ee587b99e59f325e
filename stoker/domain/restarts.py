"""When an instance that ended by itself is started again."""

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 300.0
STEADY_AFTER_SECONDS = 600.0
"""An incarnation that ran this long has proved itself: its end counts as a first failure again."""


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next incarnation, after `failures` (1 or more) ends in a row: 1, 2, 4 … up to 300."""
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16))


def failures_after(failures: int, ran_seconds: float) -> int:
    """The new count of failures in a row, when an incarnation ended that had been running for `ran_seconds`."""
    return 1 if ran_seconds >= STEADY_AFTER_SECONDS else failures + 1
