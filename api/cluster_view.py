"""What `/metrics` shows of the cluster beside the deployments: workers, claims, who waits, which parts answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client
from temporalio.service import RPCError

from stoker.domain.naming import CONTROL_QUEUE
from stoker.domain.placement.fleet import Fleet
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.figures import Figures, read_figures
from stoker.temporal import has_pollers

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 5.0
"""As often as agents report; a scrape reads what the last look found and waits for nothing."""


@dataclass(frozen=True)
class Seen:
    """What one look found. Of a database that is away nothing is known: no figure of it is shown then."""

    parts: Mapping[str, bool] = field(default_factory=dict)  # whether each answers; empty before the first look
    fleet: Fleet = field(default_factory=lambda: Fleet({}))
    figures: Figures = field(default_factory=Figures)


class ClusterView:
    """The cluster as of the last look."""

    def __init__(self, database: Database, ledger: ClaimLedger, temporal: Client) -> None:
        self._database, self._ledger, self._temporal = database, ledger, temporal
        self._seen = Seen()

    def current(self) -> Seen:
        """What the last look found."""
        return self._seen

    async def look(self) -> None:
        """Asks the database and Temporal. What does not answer is seen as away; never an error."""
        rows, temporal = await asyncio.gather(self._rows(), self._temporal_parts())
        fleet, figures = rows or (Fleet({}), Figures())
        self._seen = Seen({"database": rows is not None, **temporal}, fleet, figures)

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # the last guard: a view that has ended shows for ever what was
                self._seen = Seen()
                log.exception("cluster_view_crashed")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _rows(self) -> tuple[Fleet, Figures] | None:
        try:
            return await asyncio.to_thread(self._read)
        except (SQLAlchemyError, ValueError):  # away, or a row of another version; whoever needs it logs it
            return None

    def _read(self) -> tuple[Fleet, Figures]:
        fleet = self._ledger.fleet()
        with self._database.read() as session:
            return fleet, read_figures(session)

    async def _temporal_parts(self) -> dict[str, bool]:
        try:
            works = await has_pollers(self._temporal, CONTROL_QUEUE)
        except (RPCError, RuntimeError):
            return {"temporal": False, "control_plane": False}
        return {"temporal": True, "control_plane": works}
