"""What the API shows of workers that are silent: its own look at the rows, beside that of each control plane."""

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy.exc import SQLAlchemyError

from stoker.domain.absence import Absence
from stoker.storage.absence import AbsenceWatch

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 2.5


class AbsenceView:
    """Who is lost or held back, as of the last look. While the database is away, nothing is known of anybody."""

    def __init__(self, watch: AbsenceWatch, registry: CollectorRegistry) -> None:
        self._watch = watch
        self._found = Absence()
        Gauge(
            "stoker_workers_lost",
            "Workers silent for longer than the grace whose instances are moved",
            registry=registry,
        ).set_function(lambda: len(self._found.lost))
        Gauge(
            "stoker_workers_held_back",
            "Workers whose instances are not moved, since too many workers are silent at once; above 0: an alarm",
            registry=registry,
        ).set_function(lambda: len(self._found.held_back))

    def current(self) -> Absence:
        """What the last look found."""
        return self._found

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            try:
                self._found = await asyncio.to_thread(self._watch.look)
            except SQLAlchemyError as error:
                self._found = Absence()
                log.warning("absence_not_looked_for", error=str(error))
            except Exception:  # the last guard, as above: a view that has ended shows for ever what was
                self._found = Absence()
                log.exception("absence_view_crashed")
            await asyncio.sleep(LOOK_EVERY_SECONDS)
