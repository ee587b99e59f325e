"""Once a minute, those who wait for room and fit now are told so: the net below the signals that others send.

Whatever makes room tells at once exactly those who fit: a release, a report of more room, an uncordon. Such a signal
can be lost: Temporal is away while a report is answered, or a process dies between its commit and its signals. Here
one transaction for all of them finds out, so that the many who wait need not look for themselves every few minutes.

Every control plane does it, and none of them waits for another: to be told twice leads to one look.
"""

import asyncio
from collections.abc import Sequence
from random import SystemRandom
from typing import NoReturn, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from stoker.domain.base import InstanceId
from stoker.domain.placement.reservations import Waiting

log = structlog.get_logger()

WAKE_EVERY_SECONDS = 60.0
_SPREAD = 0.25  # of it: several control planes that began together do not ask together for long


class WhoFits(Protocol):
    """Satisfied by the ledger of claims."""

    def waiting(self) -> Sequence[Waiting]:
        """Those who wait for room now, without any lock."""
        ...

    def wakeable(self) -> tuple[InstanceId, ...]:
        """The pending instances that fit now, in one transaction."""
        ...


class Wakes(Protocol):
    """Satisfied by whoever reaches the instances' workflows."""

    async def wake(self, instance_ids: Sequence[InstanceId]) -> None:
        """Signals `capacity` to each."""
        ...


async def keep_waking(ledger: WhoFits, calls: Wakes, *, every: float = WAKE_EVERY_SECONDS) -> NoReturn:
    """Looks and tells about every so many seconds, until cancelled. What goes wrong is logged and tried again then."""
    chance = SystemRandom()
    while True:
        await asyncio.sleep(every * chance.uniform(1 - _SPREAD, 1 + _SPREAD))
        try:
            woken = await asyncio.to_thread(_who_fits, ledger)
            if woken:
                await calls.wake(woken)
                log.info("pending_woken", instances=woken)
        except (SQLAlchemyError, RPCError, RuntimeError) as error:  # the database or Temporal is away
            log.warning("pending_not_woken", error=str(error))
        except Exception:  # the last guard: a net that has ended without a word is none
            log.exception("waking_crashed")


def _who_fits(ledger: WhoFits) -> tuple[InstanceId, ...]:
    """Those who wait are looked at before the claiming lock is asked for: mostly there are none, and a thousand new
    ones take a second to parse, during which others may claim."""
    return ledger.wakeable() if ledger.waiting() else ()
