"""What users saw of a fault, from requests whose ends are known."""

import pytest

from tests.faults.load import Asked, End, Outage, outage

RIGHT, CUT, REFUSED, HUNG = End.RIGHT, End.CUT, End.REFUSED, End.HUNG


def asked(*requests: tuple[float, float, End]) -> list[Asked]:
    return [Asked(start=start, end=end, how=how) for start, end, how in requests]


@pytest.mark.parametrize(
    ("requests", "failing_fast", "answering"),
    [
        pytest.param([(99.5, 100.4, RIGHT), (100.5, 101, RIGHT)], None, 0.0, id="nobody noticed"),
        pytest.param([(99.5, 100.1, CUT), (100.5, 100.6, REFUSED), (105, 106, RIGHT)], 0.1, 6.0, id="told at once"),
        pytest.param([(99, 112, CUT), (100, 112, CUT), (113, 113, REFUSED), (115, 116, RIGHT)], 12, 16, id="frozen"),
        pytest.param([(101, 131, HUNG), (102, 132, HUNG)], 32, None, id="never again"),
        pytest.param([(100, 108, RIGHT), (101, 101.5, REFUSED), (109, 110, RIGHT)], 1.5, 10, id="one waited, and won"),
    ],
)
def test_outage(requests: list[tuple[float, float, End]], failing_fast: float | None, answering: float | None) -> None:
    seen = outage(asked(*requests), 100.0)
    assert seen.failing_fast == pytest.approx(failing_fast)
    assert seen.answering == pytest.approx(answering)
    assert seen.lost == sum(how is not RIGHT for _, _, how in requests)


def test_how_they_were_lost() -> None:
    ends = [(99, 100.2, CUT), (100, 100.1, REFUSED), (101, 131, HUNG), (102, 103, End.WRONG), (104, 107, RIGHT)]
    assert outage(asked(*ends), 100.0) == Outage(
        lost=4,
        cut=1,
        refused=1,
        hung=1,
        wrong=1,
        failing_fast=31.0,
        answering=7.0,
        taking=4.0,
        slowest=3.0,
    )
