"""Single requests go when the time that they are kept is over. Their sums stay."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from stoker.storage.engine import Database
from stoker.storage.usage import forget_single_requests, kept_from

log = structlog.get_logger()

EVERY_SECONDS = 600.0

_PAUSE_SECONDS = 0.05  # between one transaction and the next: others write, too


async def forget_for_ever(database: Database, clock: Callable[[], datetime], days: int) -> None:
    """Deletes what is older than so many days, again and again, until cancelled. Any number of processes may do so."""
    while True:
        try:
            while count := await asyncio.to_thread(_forget_some, database, clock(), days):
                log.info("usage_forgotten", requests=count)
                await asyncio.sleep(_PAUSE_SECONDS)
        except SQLAlchemyError as error:
            log.warning("usage_not_forgotten", error=str(error))
        except Exception:  # the last guard: the table would grow for ever
            log.exception("usage_forgetting_crashed")
        await asyncio.sleep(EVERY_SECONDS)


def _forget_some(database: Database, now: datetime, days: int) -> int:
    with database.write() as session:
        return forget_single_requests(session, kept_from(now, days))
