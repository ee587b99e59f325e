"""Instances: what their workflows projected, and what the claiming transaction and the agents added."""

from datetime import datetime

from sqlmodel import Session, col, select

from stoker.domain.base import DeploymentName, InstanceId, WorkerName
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.statuses import DeploymentProjection, InstanceProjection, InstanceStatus, Progress
from stoker.storage.tables import DeploymentRow, InstanceRow

_ON_THE_WAY = (InstanceState.PLACING.value, InstanceState.DOWNLOADING.value, InstanceState.STARTING.value)


class Instances:
    """The instances' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def put(self, projection: InstanceProjection) -> None:
        """Inserts or updates. What an older incarnation still had to say changes nothing."""
        row = self._row(projection.instance_id, projection.deployment, projection.generation)
        if projection.incarnation < row.incarnation:
            return
        self._enter(row, projection.state, projection.incarnation, projection.message)
        row.port, row.pid, row.load_seconds = projection.port, projection.pid, projection.load_seconds
        row.memory = projection.memory.model_dump(mode="json") if projection.memory is not None else None
        if row.state not in _ON_THE_WAY:
            row.progress = None
        self._session.add(row)

    def placed(self, request: PlacementRequest, outcome: Placement | Unplaceable) -> None:
        """Keeps the claiming transaction's decision. An instance that found no place is pending from here on."""
        row = self._row(request.instance_id, request.spec.name, request.generation)
        if isinstance(outcome, Placement):
            self._enter(row, InstanceState.PLACING, request.incarnation, outcome.reason)
            row.placement, row.unplaceable, row.worker = outcome.model_dump(mode="json"), None, outcome.worker
            row.pending_since = None
        else:
            self._enter(row, InstanceState.PENDING, request.incarnation, outcome.summary)
            row.placement, row.unplaceable, row.worker = None, outcome.model_dump(mode="json"), ""
            row.pending_since = row.pending_since or self._now
        row.request = request.model_dump(mode="json")
        row.port, row.pid, row.memory = 0, 0, None
        self._session.add(row)

    def _row(self, instance_id: InstanceId, deployment: DeploymentName, generation: int) -> InstanceRow:
        row = self._session.get(InstanceRow, instance_id)
        if row is not None:
            return row
        return InstanceRow(
            id=instance_id,
            deployment=deployment,
            generation=generation,
            incarnation=0,
            state="",
            created_at=self._now,
            updated_at=self._now,
            state_since=self._now,
        )

    def _enter(self, row: InstanceRow, state: InstanceState, incarnation: int, message: str) -> None:
        if (row.state, row.incarnation) != (state.value, incarnation):
            row.state_since = self._now
        row.state, row.incarnation, row.message, row.updated_at = state.value, incarnation, message, self._now

    def remove(self, instance_id: InstanceId) -> None:
        """Removes the row, if it is there."""
        if (row := self._session.get(InstanceRow, instance_id)) is not None:
            self._session.delete(row)

    def remove_of(self, deployment: DeploymentName) -> None:
        """Removes the rows of all instances of a deployment."""
        for row in self._session.exec(select(InstanceRow).where(InstanceRow.deployment == deployment)):
            self._session.delete(row)

    def set_progress(self, instance_id: InstanceId, worker: WorkerName, progress: Progress) -> None:
        """Keeps how far the instance has come, if it is on that worker and still on its way."""
        row = self._session.get(InstanceRow, instance_id)
        if row is not None and row.worker == worker and row.state in _ON_THE_WAY:
            row.progress, row.updated_at = progress.model_dump(mode="json"), self._now
            self._session.add(row)

    def get(self, instance_id: InstanceId) -> InstanceStatus | None:
        """One instance, or None."""
        row = self._session.get(InstanceRow, instance_id)
        return _status(row) if row else None

    def held_placement(self, instance_id: InstanceId, incarnation: int) -> Placement | None:
        """The placement that this incarnation was given, or None."""
        row = self._session.get(InstanceRow, instance_id)
        if row is None or row.incarnation != incarnation or row.placement is None:
            return None
        return Placement.model_validate(row.placement)

    def all(
        self, *, deployment: DeploymentName | None = None, after: str = "", limit: int | None = None
    ) -> tuple[InstanceStatus, ...]:
        """Instances by id, of one deployment or of all, those behind `after` only, `limit` at most."""
        query = select(InstanceRow).where(col(InstanceRow.id) > after).order_by(InstanceRow.id).limit(limit)
        if deployment is not None:
            query = query.where(InstanceRow.deployment == deployment)
        return tuple(_status(row) for row in self._session.exec(query))

    def pending(self) -> tuple[PlacementRequest, ...]:
        """What waits for room, in the order in which it is to be served: by priority, then by age.

        The priority is the deployment's of today: it may have changed since the instance began to wait.
        """
        query = (
            select(InstanceRow, DeploymentRow)
            .join(DeploymentRow, col(DeploymentRow.name) == col(InstanceRow.deployment), isouter=True)
            .where(InstanceRow.state == InstanceState.PENDING.value)
            .order_by(col(InstanceRow.pending_since), InstanceRow.id)
        )
        waiting = [
            (PlacementRequest.model_validate(row.request), deployment)
            for row, deployment in self._session.exec(query)
            if row.request
        ]
        waiting.sort(key=lambda pair: -_priority(*pair))
        return tuple(request for request, _ in waiting)


def _priority(request: PlacementRequest, deployment: DeploymentRow | None) -> int:
    if deployment is None:
        return request.spec.priority
    return DeploymentProjection.model_validate(deployment.projection).spec.priority


def _status(row: InstanceRow) -> InstanceStatus:
    return InstanceStatus.model_validate({**row.model_dump(), "instance_id": row.id})
