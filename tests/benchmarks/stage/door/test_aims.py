"""What the door is held to."""

from typing import Any

import pytest

from benchmarks.stage.door.aims import aims


def row(proxy: str, case: str, rps: float, **figures: float) -> dict[str, Any]:
    """One row of the results."""
    return {"proxy": proxy, "case": case, "rps": rps, "cpu_ms": 0.09, "rss_mib": 70.0, **figures}


@pytest.mark.parametrize(
    ("rows", "reached"),
    [
        ([row("stoker", "small-64", 15), row("nginx", "small-64", 100)], [True, True, True]),
        ([row("stoker", "small-64", 14), row("nginx", "small-64", 100)], [False, True, True]),
        ([row("stoker", "small-64", 15, cpu_ms=0.11, rss_mib=81), row("nginx", "small-64", 100)], [True, False, False]),
        ([row("stoker", "streams-64", 50), row("nginx", "streams-64", 100)], [True, True]),
        ([row("stoker", "streams-64", 50), row("litellm", "streams-64", 0)], [True]),
        ([row("stoker", "paced-64", 50, ttft_p50_ms=1.0, ttft_p99_ms=3.1)], [True, False, True]),
        ([row("nginx", "small-64", 15)], []),
    ],
)
def test_an_aim_is_judged_where_it_was_measured(rows: list[dict[str, Any]], reached: list[bool]) -> None:
    assert [found["reached"] for found in aims(rows).values()] == reached
