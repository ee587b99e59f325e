"""When an instance that waits for room looks by itself."""

from datetime import timedelta

import pytest

from workflows.options import CAPACITY_RECHECK, HOLD_RECHECK, next_recheck


@pytest.mark.parametrize(
    ("waited", "chance", "expected"),
    [
        (0, 0.0, 630),
        (0, 1.0, 787.5),
        (100, 0.0, 530),  # woken in between, and refused again: the look for the reservation comes all the same
        (629, 0.0, 1),
        (630, 0.0, 6 * 3600),
        (700, 0.5, 6.75 * 3600),
        (10**6, 1.0, 7.5 * 3600),
    ],
)
def test_once_when_it_reserves_and_then_seldom(waited: float, chance: float, expected: float) -> None:
    assert next_recheck(timedelta(seconds=waited), chance) == timedelta(seconds=expected)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_after_the_first_look_all_others_are_far_apart(chance: float) -> None:
    first = next_recheck(timedelta(0), chance)
    assert first >= HOLD_RECHECK
    assert next_recheck(first, chance) >= CAPACITY_RECHECK
