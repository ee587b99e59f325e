"""The board of progress: what is shown, what is new, and what is over."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.statuses import Progress
from worker_agent import progress as module
from worker_agent.progress import FORGET_AFTER_SECONDS, ProgressBoard


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The board's."""
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made))
    return made


def test_the_latest_is_shown_by_instance(clock: Clock) -> None:
    board = ProgressBoard()
    board.show("a", Progress(done=1, total=10))
    board.show("b", Progress(done=2, total=20))
    board.show("a", Progress(done=3, total=10))
    assert {name: shown.done for name, shown in board.current().items()} == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("steps", "rate"),
    [
        ([(0.0, 100)], 0.0),  # nothing to compare with
        ([(0.0, 100), (2.0, 500)], 200.0),
        ([(0.0, 0), (1.0, 100), (1.0, 400)], 200.0),  # half of what was, half of what is
        ([(0.0, 500), (1.0, 100)], 0.0),  # it began anew
        ([(0.0, 0), (1.0, 100), (1.0, 50)], 100.0),  # the same, with a rate that is kept
        ([(0.0, 0), (0.0, 100)], 0.0),  # no time has passed
        ([(0.0, 0), (1.0, 100), (1.0, 100)], 100.0),  # nothing new
    ],
)
def test_the_rate(clock: Clock, steps: list[tuple[float, int]], rate: float) -> None:
    board = ProgressBoard()
    for seconds, done in steps:
        clock.now += seconds
        board.show("a", Progress(done=done, total=1000))
    assert board.current()["a"].rate == rate


def test_a_rate_that_was_measured_elsewhere_is_kept(clock: Clock) -> None:
    board = ProgressBoard()
    board.show("a", Progress(done=1, total=10))
    clock.now += 1
    board.show("a", Progress(done=2, total=10, rate=77.0))
    assert board.current()["a"].rate == 77.0


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 10**12)), min_size=1, max_size=20))
def test_a_rate_is_never_negative_nor_endless(steps: list[tuple[float, int]]) -> None:
    clock, board = Clock(), ProgressBoard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", SimpleNamespace(monotonic=clock))
        for seconds, done in steps:
            clock.now += seconds
            board.show("a", Progress(done=done, total=10**12))
        for shown in board.current().values():
            assert 0 <= shown.rate < float("inf")


def test_what_does_not_move_is_forgotten(clock: Clock) -> None:
    board = ProgressBoard()
    board.show("a", Progress(done=1, total=10))
    clock.now += FORGET_AFTER_SECONDS
    assert "a" in board.current()
    clock.now += 0.1
    board.show("b", Progress(done=1, total=10))
    assert list(board.current()) == ["b"]


@pytest.mark.anyio
async def test_who_waits_for_news_is_told_once(clock: Clock) -> None:
    board = ProgressBoard()
    waiting = asyncio.create_task(board.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    board.show("a", Progress(done=1, total=10))
    await waiting
    again = asyncio.create_task(board.changed())
    clock.now += 1
    board.show("a", Progress(done=1, total=10))  # nothing new
    for _ in range(3):
        await asyncio.sleep(0)
    assert not again.done()
    board.show("a", Progress(done=2, total=10))
    board.show("b", Progress(done=2, total=10))
    await again
    board.show("a", Progress(done=3, total=10))  # before anybody waits
    await board.changed()
