"""When an instance that ended by itself is started again."""

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 300.0
FORGIVEN_AFTER_SECONDS = 15.0
"""Each so many seconds that an incarnation ran forgive one failure: a pause is for what cannot run, and what ran for
minutes between two misfortunes shall not wait for minutes after the second."""
_MOST_PATIENCE = 64


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next incarnation, after `failures` (1 or more) ends in a row: 1, 2, 4 … up to 300."""
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16))


def failures_after(failures: int, ran_seconds: float) -> int:
    """The new count of failures in a row, when an incarnation ended that had been running for `ran_seconds`."""
    return max(0, failures - int(ran_seconds // FORGIVEN_AFTER_SECONDS)) + 1


def patience_after(frozen: int) -> int:
    """How many times as long as usual an engine may stand still, after so many ends in a row for which it stood still.

    1, 2, 4 … up to 64: a machine whose first batch takes longer than the usual time must come to serve in the end.
    """
    return int(min(_MOST_PATIENCE, 2 ** min(frozen, 16)))
