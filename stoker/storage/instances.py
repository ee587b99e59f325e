"""Instances: what their workflows projected, and what the claiming transaction and the agents added."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, null
from sqlmodel import Session, col, select

from stoker.domain.base import DeploymentName, InstanceId, WorkerName
from stoker.domain.deployments import InstanceState
from stoker.domain.links import WorkerLink
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.statuses import InstanceProjection, InstanceStatus, Progress
from stoker.storage.engine import INSERTS, Insert, JsonText
from stoker.storage.held import IS_HELD
from stoker.storage.links import Links
from stoker.storage.tables import ClaimRow, InstanceRow, table_of

_ON_THE_WAY = (InstanceState.PLACING.value, InstanceState.DOWNLOADING.value, InstanceState.STARTING.value)

_TABLE = table_of(InstanceRow)
_KEPT = ("id", "deployment", "generation", "load_seconds", "progress", "created_at")
"""What the decision about a place leaves as it was."""


def _placed(insert: Insert) -> Insert:
    """One statement that keeps a decision, whether the instance's row is there or not."""
    new, same = (
        insert.excluded,
        and_(_TABLE.c.state == insert.excluded.state, _TABLE.c.incarnation == insert.excluded.incarnation),
    )
    changed: dict[str, ColumnElement[Any]] = {name: column for name, column in new.items() if name not in _KEPT}
    changed["state_since"] = case((same, _TABLE.c.state_since), else_=new.state_since)
    waiting = func.coalesce(_TABLE.c.pending_since, new.pending_since)
    changed["pending_since"] = case((new.pending_since.is_not(None), waiting), else_=None)
    return insert.on_conflict_do_update(index_elements=["id"], set_=changed)


_PLACED = {dialect: _placed(insert(_TABLE)) for dialect, insert in INSERTS.items()}


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
        asked = request.model_dump_json()
        found = outcome if isinstance(outcome, Placement) else None
        refused = outcome if isinstance(outcome, Unplaceable) else None
        values = {
            "id": request.instance_id,
            "deployment": request.spec.name,
            "generation": request.generation,
            "incarnation": request.incarnation,
            "state": (InstanceState.PLACING if found else InstanceState.PENDING).value,
            "message": found.reason if found else refused.summary if refused else "",
            "port": 0,
            "pid": 0,
            "load_seconds": 0.0,
            "memory": null(),
            "worker": found.worker if found else "",
            "request": JsonText(asked),
            "request_digest": hashlib.sha256(asked.encode()).hexdigest(),
            "placement": JsonText(found.model_dump_json()) if found else null(),
            "unplaceable": JsonText(refused.model_dump_json()) if refused else null(),
            "progress": null(),
            "pending_since": self._now if refused else None,
            "created_at": self._now,
            "updated_at": self._now,
            "state_since": self._now,
        }
        self._session.execute(_PLACED[self._session.get_bind().dialect.name], values)
        self._session.expire_all()  # rows that were read before

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
        return self._statuses([row])[0] if row else None

    def all(
        self, *, deployment: DeploymentName | None = None, after: str = "", limit: int | None = None
    ) -> tuple[InstanceStatus, ...]:
        """Instances by id, of one deployment or of all, those behind `after` only, `limit` at most."""
        query = select(InstanceRow).where(col(InstanceRow.id) > after).order_by(InstanceRow.id).limit(limit)
        if deployment is not None:
            query = query.where(InstanceRow.deployment == deployment)
        return self._statuses(self._session.exec(query).all())

    def marks(self) -> tuple[object, ...]:
        """What is unequal to what it was when any instance has changed: cheap, also of many."""
        row = InstanceRow
        query = select(row.id, row.state, row.incarnation, row.updated_at).order_by(row.id)
        return tuple(tuple(one) for one in self._session.exec(query))

    def on_worker(self, name: WorkerName) -> tuple[InstanceStatus, ...]:
        """Instances that hold something of that worker, as their main server's or as a peer's, by id."""
        holders = select(ClaimRow.instance_id).where(ClaimRow.worker == name, IS_HELD)
        query = select(InstanceRow).where(col(InstanceRow.id).in_(holders)).order_by(InstanceRow.id)
        return self._statuses(self._session.exec(query).all())

    def _statuses(self, rows: Sequence[InstanceRow]) -> tuple[InstanceStatus, ...]:
        """The rows, and the ways between the workers of those that are spread over several."""
        statuses = tuple(_status(row) for row in rows)
        spread = [one.placement for one in statuses if one.placement is not None and len(one.placement.workers) > 1]
        known = Links(self._session).of({placement.worker for placement in spread})
        return tuple(one.model_copy(update={"links": _links(one, known)}) if known else one for one in statuses)


def _status(row: InstanceRow) -> InstanceStatus:
    avoids = row.request.get("avoid", ()) if row.request is not None else ()
    return InstanceStatus.model_validate({**row.model_dump(), "instance_id": row.id, "avoids": avoids})


def _links(status: InstanceStatus, known: Mapping[tuple[WorkerName, WorkerName], WorkerLink]) -> tuple[WorkerLink, ...]:
    if status.placement is None:
        return ()
    main, *peers = status.placement.workers
    return tuple(known[main, peer] for peer in peers if (main, peer) in known)
