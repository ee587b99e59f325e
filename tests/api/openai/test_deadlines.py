"""One timer for all that may take too long."""

import asyncio
import math

import pytest

from api.openai.deadlines import Deadlines
from tests.api.openai.serving import until

pytestmark = pytest.mark.anyio


class Work:
    """Ends when it is late, and counts how often it was looked at."""

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self.deadlines = deadlines
        self.due = asyncio.get_running_loop().time() + seconds
        self.looks = 0
        self.ended = False
        deadlines.watch(self, self.due)

    def look(self, now: float) -> float:
        """As Watched says."""
        self.looks += 1
        if now < self.due:
            return self.due
        self.ended = True
        self.deadlines.forget(self)
        return math.inf


async def test_each_ends_in_its_time_whatever_the_order_in_which_they_began() -> None:
    deadlines = Deadlines()
    never, late, soon = (Work(deadlines, seconds) for seconds in (3600.0, 0.04, 0.02))
    await until(lambda: soon.ended)
    await until(lambda: late.ended)
    assert not never.ended
    assert never.looks in (1, 2, 3)  # with each of the others; both may be late by then, or one looked at too early


async def test_what_is_over_is_not_looked_at_again() -> None:
    deadlines = Deadlines()
    over, other = Work(deadlines, 0.02), Work(deadlines, 0.04)
    deadlines.forget(over)
    await until(lambda: other.ended)
    assert over.looks == 0


async def test_work_after_work_makes_no_new_timer() -> None:
    deadlines = Deadlines()
    Work(deadlines, 3600.0)
    timer = deadlines._timer
    for _ in range(100):
        deadlines.forget(Work(deadlines, 3601.0))
    assert deadlines._timer is timer
    assert len(deadlines._watched) == 1


async def test_what_becomes_due_sooner_is_looked_at_sooner() -> None:
    deadlines = Deadlines()
    work = Work(deadlines, 3600.0)
    work.due = asyncio.get_running_loop().time()
    deadlines.watch(work, work.due)
    await until(lambda: work.ended)


async def test_what_ends_may_begin_something_new() -> None:
    deadlines = Deadlines()
    begun: list[Work] = []

    class Again(Work):
        def look(self, now: float) -> float:
            begun.append(Work(deadlines, 0.01))
            return super().look(now)

    first = Again(deadlines, 0.0)
    await until(lambda: first.ended and begun[-1].ended)


async def test_nothing_ends_once_it_is_closed() -> None:
    deadlines = Deadlines()
    work = Work(deadlines, 0.0)
    deadlines.close()
    other = Work(Deadlines(), 0.02)
    await until(lambda: other.ended)
    assert not work.looks
