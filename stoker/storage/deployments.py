"""Deployments, as their workflows projected them."""

from datetime import datetime

from sqlmodel import Session, col, select

from stoker.domain.base import DeploymentName
from stoker.domain.statuses import DeploymentProjection, DeploymentStatus
from stoker.storage.tables import DeploymentRow


class Deployments:
    """The deployments' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def put(self, projection: DeploymentProjection) -> None:
        """Inserts or updates. A projection of an older generation changes nothing: it is a late retry."""
        row = self._session.get(DeploymentRow, projection.spec.name)
        if row is None:
            row = DeploymentRow(
                name=projection.spec.name,
                projection={},
                generation=0,
                created_at=self._now,
                updated_at=self._now,
            )
        if projection.generation < row.generation:
            return
        content = projection.model_dump(mode="json")
        if row.projection != content:
            row.projection, row.generation, row.updated_at = content, projection.generation, self._now
            row.priority = projection.spec.priority
            self._session.add(row)

    def remove(self, name: DeploymentName) -> None:
        """Removes the row, if it is there."""
        if (row := self._session.get(DeploymentRow, name)) is not None:
            self._session.delete(row)

    def get(self, name: DeploymentName) -> DeploymentStatus | None:
        """One deployment, or None."""
        row = self._session.get(DeploymentRow, name)
        return _status(row) if row else None

    def all(self, *, after: str = "", limit: int | None = None) -> tuple[DeploymentStatus, ...]:
        """Deployments by name, those behind `after` only, `limit` at most."""
        query = select(DeploymentRow).where(col(DeploymentRow.name) > after).order_by(DeploymentRow.name).limit(limit)
        return tuple(_status(row) for row in self._session.exec(query))

    def names(self) -> tuple[DeploymentName, ...]:
        """All names, in the database's own order."""
        return tuple(self._session.exec(select(DeploymentRow.name)))

    def marks(self) -> tuple[object, ...]:
        """What is unequal to what it was when any deployment has changed: cheap, also of many."""
        row = DeploymentRow
        query = select(row.name, row.generation, row.updated_at).order_by(row.name)
        return tuple(tuple(one) for one in self._session.exec(query))


def _status(row: DeploymentRow) -> DeploymentStatus:
    return DeploymentStatus.model_validate(
        {**row.projection, "created_at": row.created_at, "updated_at": row.updated_at}
    )
