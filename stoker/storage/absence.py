"""Who reports and who holds what, by the rows, for those that look for workers that are gone."""

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from sqlalchemy import exists, select
from sqlmodel import Session

from stoker.domain.absence import Absence, LastReport, Listening, follow
from stoker.domain.base import InstanceId, WorkerName
from stoker.storage.engine import Database
from stoker.storage.held import IS_HELD
from stoker.storage.tables import ClaimRow, WorkerRow, table_of

_WORKERS, _CLAIMS = table_of(WorkerRow).c, table_of(ClaimRow).c
_REPORTS = select(_WORKERS.name, _WORKERS.seen_at, exists().where(_CLAIMS.worker == _WORKERS.name, IS_HELD)).order_by(
    _WORKERS.name
)


class Use(NamedTuple):
    """One instance that holds something of a worker."""

    instance_id: InstanceId
    worker: WorkerName


class AbsenceWatch:
    """One looker's view: what it has heard since it was made. One thread at a time.

    `grace`: seconds of silence allowed. `clock` returns seconds that only grow.
    """

    def __init__(self, database: Database, grace: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._grace, self._clock = database, grace, clock
        self._listening, self._found = Listening(), Absence()

    def look(self) -> Absence:
        """Reads who reported since the last look; what follows from all that was heard."""
        with self._database.read() as session:
            reports = _reports(session)
        listening = self._listening.looked(reports, self._clock())
        holding = {one.worker for one in reports if one.holds}
        self._listening, self._found = follow(self._found, listening, holding, self._grace)
        return self._found

    def silence(self, worker: WorkerName) -> float:
        """Seconds for which the worker was silent while others were heard, at the last look; 0 of one unknown."""
        return self._listening.silences().get(worker, 0.0)

    def uses(self, workers: Collection[WorkerName]) -> tuple[Use, ...]:
        """The instances that hold something of these workers, each with the worker; nothing that is ending."""
        held = select(_CLAIMS.instance_id, _CLAIMS.worker).distinct().where(_CLAIMS.worker.in_(workers), IS_HELD)
        with self._database.read() as session:
            found = session.execute(held.order_by(_CLAIMS.worker, _CLAIMS.instance_id)).all()
        return tuple(Use(*row) for row in found)


def _reports(session: Session) -> tuple[LastReport, ...]:
    return tuple(
        LastReport(worker=name, taken_at=seen_at, holds=holds) for name, seen_at, holds in session.execute(_REPORTS)
    )
