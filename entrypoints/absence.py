"""Every few seconds: the instances on workers that are lost are told to go on elsewhere.

Each look is derived anew from the rows (`stoker/domain/absence.py` has the rules). Whoever is told and still holds
something there is told again, more and more seldom: a signal that was lost costs seconds, and one that is slow to move
gets no thousand. Every control plane does it, and none waits for another: to be told twice moves an instance once.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from random import SystemRandom
from typing import NoReturn, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from stoker.domain.absence import Absence
from stoker.domain.base import WorkerName
from stoker.storage.absence import Use

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 2.5
FIRST_AGAIN_SECONDS = 5.0
LAST_AGAIN_SECONDS = 60.0
"""Between two signals to one that has not moved yet: the first time at least, and after doubling at most."""

_SPREAD = 0.2  # of it: several control planes that began together do not look together for long
_AT_ONCE = 50  # signals under way


class Watch(Protocol):
    """Satisfied by `AbsenceWatch`."""

    def look(self) -> Absence:
        """Who is lost, or why nothing is moved."""
        ...

    def silence(self, worker: WorkerName) -> float:
        """Seconds for which the worker has been silent, at the last look."""
        ...

    def uses(self, workers: Collection[WorkerName]) -> tuple[Use, ...]:
        """The instances that hold something of these workers."""
        ...


class Tells(Protocol):
    """Satisfied by whoever reaches the instances' workflows."""

    async def worker_lost(self, instance_id: str, worker: WorkerName, reason: str) -> None:
        """Signals it. An instance that is gone is fine."""
        ...


async def keep_watch(watch: Watch, calls: Tells, *, every: float = LOOK_EVERY_SECONDS) -> NoReturn:
    """Looks and tells about every so many seconds, until cancelled. What goes wrong is logged and tried again then."""
    chance = SystemRandom()
    mover = Mover(watch, calls)
    while True:
        await asyncio.sleep(every * chance.uniform(1 - _SPREAD, 1 + _SPREAD))
        try:
            await mover.look_once()
        except (SQLAlchemyError, RPCError, RuntimeError) as error:  # the database or Temporal is away
            log.warning("absence_not_looked_for", error=str(error))
        except Exception:  # the last guard: a watch that has ended without a word is none
            log.exception("absence_watch_crashed")


class Mover:
    """Tells the instances on lost workers. `clock` returns seconds that only grow."""

    def __init__(self, watch: Watch, calls: Tells, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch, self._calls, self._clock = watch, calls, clock
        self._held_back: tuple[WorkerName, ...] = ()
        self._lost: tuple[WorkerName, ...] = ()
        self._again: dict[Use, tuple[float, float]] = {}  # when to tell it again, and the pause before that

    async def look_once(self) -> None:
        """One look, and what follows from it. Raises SQLAlchemyError, RPCError, RuntimeError."""
        absence = await asyncio.to_thread(self._watch.look)
        self._log(absence)
        uses = await asyncio.to_thread(self._watch.uses, absence.lost) if absence.lost else ()
        now = self._clock()
        self._again = {use: pause for use, pause in self._again.items() if use in uses}
        due = [use for use in uses if self._again.get(use, (now, 0.0))[0] <= now]
        await self._tell(due, now)

    async def _tell(self, due: Sequence[Use], now: float) -> None:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def tell(use: Use) -> None:
            reason = f"{use.worker} has not reported for {self._watch.silence(use.worker):.0f} s"
            async with turn:
                await self._calls.worker_lost(use.instance_id, use.worker, reason)
            _, before = self._again.get(use, (0.0, 0.0))
            pause = min(LAST_AGAIN_SECONDS, max(FIRST_AGAIN_SECONDS, 2 * before))
            self._again[use] = now + pause, pause

        results = await asyncio.gather(*(tell(use) for use in due), return_exceptions=True)
        if failed := [result for result in results if isinstance(result, BaseException)]:
            raise failed[0]
        if due:
            log.warning("instances_told_to_move", workers=sorted({use.worker for use in due}), instances=_named(due))

    def _log(self, absence: Absence) -> None:
        """Says what is new."""
        if absence.held_back and absence.held_back != self._held_back:
            log.error("workers_silent_at_once", workers=absence.held_back, reason=absence.alarm)
        elif self._held_back and not absence.held_back:
            log.warning("workers_silent_at_once_over", workers=self._held_back)
        for worker in sorted({*absence.lost} - {*self._lost}):
            log.warning("worker_lost", worker=worker, silent_seconds=round(self._watch.silence(worker)))
        self._held_back, self._lost = absence.held_back, absence.lost


def _named(uses: Sequence[Use]) -> list[str]:
    return [use.instance_id for use in uses]
