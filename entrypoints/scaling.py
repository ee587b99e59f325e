"""Every few seconds: deployments that demand scales are told how many replicas they should have.

Each look is derived anew from the rows (`stoker/domain/scaling.py` has the rule). Every control plane does it, and none
waits for another: to be told twice scales once. A first replica is not waited for until the next look: whoever asks a
model that sleeps has it woken at once (`api/openai/waking.py`).
"""

import asyncio
from collections.abc import Sequence
from random import SystemRandom
from typing import NoReturn, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from stoker.domain.scaling import Rescale

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 2.0
TIDY_EVERY_LOOKS = 300  # ten minutes
_SPREAD = 0.2  # several control planes that began together do not look together for long
_AT_ONCE = 50  # signals under way


class Watch(Protocol):
    """Satisfied by `DemandWatch`."""

    def look(self) -> Sequence[Rescale]:
        """Those that should have another number of replicas."""
        ...

    def tidy(self) -> None:
        """Removes what processes told that are no more."""
        ...


class Scales(Protocol):
    """Satisfied by whoever reaches the deployments' workflows."""

    async def scale(self, rescale: Rescale) -> bool:
        """Signals it; False where the deployment is gone."""
        ...


async def keep_scaling(watch: Watch, calls: Scales, *, every: float = LOOK_EVERY_SECONDS) -> NoReturn:
    """Looks and tells about every so many seconds, until cancelled. What goes wrong is logged and tried again then."""
    chance = SystemRandom()
    looks = 0
    while True:
        await asyncio.sleep(every * chance.uniform(1 - _SPREAD, 1 + _SPREAD))
        try:
            await scale_once(watch, calls)
            looks += 1
            if looks % TIDY_EVERY_LOOKS == 0:
                await asyncio.to_thread(watch.tidy)
        except (SQLAlchemyError, RPCError, RuntimeError) as error:  # the database or Temporal is away
            log.warning("demand_not_looked_at", error=str(error))
        except Exception:  # the last guard: a watch that has ended without a word is none
            log.exception("scaling_crashed")


async def scale_once(watch: Watch, calls: Scales) -> None:
    """One look, and what follows from it. Raises SQLAlchemyError, RPCError, RuntimeError."""
    found = await asyncio.to_thread(watch.look)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def tell(rescale: Rescale) -> None:
        async with turn:
            told = await calls.scale(rescale)
        if told:
            log.info(
                "deployment_scaled",
                deployment=rescale.deployment,
                replicas=rescale.replicas,
                before=rescale.seen,
                reason=rescale.reason,
            )

    results = await asyncio.gather(*(tell(rescale) for rescale in found), return_exceptions=True)
    if failed := [result for result in results if isinstance(result, BaseException)]:
        raise failed[0]
