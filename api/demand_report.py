"""Tells the control plane what is asked of models that demand scales: beside the requests, about once a second.

What has not changed is not told again, but for a model with requests in work every few seconds: what a process that
has died last told counts no more when it is silent (`stoker/domain/scaling.py`).
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.openai.queueing import Asked
from api.openai.router import RouteSource
from stoker.domain.scaling import SILENT_SECONDS, Told
from stoker.storage.demand import forget_process, write_demand
from stoker.storage.engine import Database

log = structlog.get_logger()

TELL_EVERY_SECONDS = 1.0
BEAT_EVERY_SECONDS = SILENT_SECONDS / 3


class DemandReport:
    """One process's. `clock` gives the moment in UTC, `monotonic` seconds that only grow."""

    def __init__(
        self,
        database: Database,
        routes: RouteSource,
        asked: Callable[[], Mapping[str, Asked]],
        clock: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.process = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._database, self._routes, self._asked = database, routes, asked
        self._clock, self._monotonic = clock, monotonic
        self._told: dict[str, tuple[Told, float]] = {}  # by deployment, and when
        self._troubled = False

    async def tell(self) -> None:
        """Writes what is new. Raises SQLAlchemyError: then all of it stays new."""
        now = self._monotonic()
        news = [told for name, asked in self._asked().items() if (told := self._news(name, asked, now)) is not None]
        if news:
            await asyncio.to_thread(self._write, news)
            self._told |= {told.deployment: (told, now) for told in news}
        models = self._routes.current().models
        self._told = {name: told for name, told in self._told.items() if name in models}

    def _news(self, name: str, asked: Asked, now: float) -> Told | None:
        route = self._routes.current().models.get(name)
        if route is None or not route.autoscaled:
            return None
        last, told_at = self._told.get(name, (None, 0.0))
        if last is None:
            return Told(self.process, name, asked.busy, asked.total, 1) if asked.total else None
        if (last.busy, last.asked) == asked and not (asked.busy and now - told_at >= BEAT_EVERY_SECONDS):
            return None
        return Told(self.process, name, asked.busy, asked.total, last.beat + 1)

    async def run(self) -> None:
        """Tells again and again, until cancelled."""
        while True:
            try:
                await self.tell()
                self._troubled = False
            except SQLAlchemyError as error:
                if not self._troubled:  # once: it is tried again each second
                    log.warning("demand_not_told", error=str(error))
                self._troubled = True
            except Exception:  # the last guard: a report that has ended lets a busy model fall asleep
                log.exception("demand_report_crashed")
            await asyncio.sleep(TELL_EVERY_SECONDS)

    async def close(self) -> None:
        """This process ends: nothing is in work here any more."""
        if not self._told:
            return
        try:
            await asyncio.to_thread(self._forget)
        except SQLAlchemyError as error:  # it will be silent
            log.warning("demand_not_taken_back", error=str(error))

    def _write(self, news: list[Told]) -> None:
        with self._database.write() as session:
            write_demand(session, news, self._clock())

    def _forget(self) -> None:
        with self._database.write() as session:
            forget_process(session, self.process)
