"""What is on which worker, for those that empty one. Satisfies `activities.ports.Occupancy`."""

from collections.abc import Callable
from datetime import datetime, timedelta

from stoker.domain.base import DeploymentName, WorkerName
from stoker.domain.statuses import InstanceStatus
from stoker.domain.workers import WorkerState
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.tables import WorkerRow
from stoker.storage.workers import Workers, state_of


class RowOccupancy:
    """Each call is one transaction; `clock` gives the moment in UTC."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock

    def worker_state(self, worker: WorkerName) -> WorkerState | None:
        """See `Occupancy`."""
        with self._database.read() as session:
            row = session.get(WorkerRow, worker)
        # As administrators left it: a silent worker is emptied, too, until its drain is called off.
        return state_of(cordoned=row.cordoned, draining=row.draining, silent=timedelta(0)) if row is not None else None

    def on_worker(self, worker: WorkerName) -> tuple[InstanceStatus, ...]:
        """See `Occupancy`."""
        with self._database.read() as session:
            return Instances(session, self._clock()).on_worker(worker)

    def of_deployment(self, deployment: DeploymentName) -> tuple[InstanceStatus, ...]:
        """See `Occupancy`."""
        with self._database.read() as session:
            return Instances(session, self._clock()).all(deployment=deployment)

    def stop_draining(self, worker: WorkerName) -> None:
        """See `Occupancy`."""
        with self._database.write() as session:
            Workers(session, self._clock()).set_draining(worker, False)
