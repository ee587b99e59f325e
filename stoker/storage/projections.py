"""What workflows want seen, written to the rows."""

from collections.abc import Callable
from datetime import datetime

from stoker.domain.base import DeploymentName, InstanceId
from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import DeploymentProjection, InstanceProjection
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.revisions import Revisions


class RowProjections:
    """Each call is one transaction and may be repeated. `clock` gives the moment in UTC."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock

    def put_deployment(self, projection: DeploymentProjection) -> None:
        """Inserts or updates the deployment's row, and that of its revision."""
        with self._database.write() as session:
            Deployments(session, self._clock()).put(projection)
            Revisions(session, self._clock()).put(projection)

    def remove_deployment(self, name: DeploymentName) -> None:
        """Removes the deployment's row, and those of its instances and revisions."""
        with self._database.write() as session:
            Instances(session, self._clock()).remove_of(name)
            Revisions(session, self._clock()).remove_of(name)
            Deployments(session, self._clock()).remove(name)

    def put_instance(self, projection: InstanceProjection) -> None:
        """Inserts or updates the instance's row. Revisions that it answers have run once it does."""
        with self._database.write() as session:
            Instances(session, self._clock()).put(projection)
            if projection.state is InstanceState.RUNNING:
                Revisions(session, self._clock()).note_ran(projection.deployment, projection.generation)

    def remove_instance(self, instance_id: InstanceId) -> None:
        """Removes the instance's row."""
        with self._database.write() as session:
            Instances(session, self._clock()).remove(instance_id)
