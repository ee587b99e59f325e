"""Names that are no deployment's own, and what they lead to."""

from datetime import datetime

from sqlmodel import Session, col, select

from stoker.domain.model_routes import RouteSpec, RouteStatus
from stoker.storage.tables import ModelRouteRow


class ModelRoutes:
    """The routes' repository within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def add(self, spec: RouteSpec) -> RouteStatus:
        """Makes a route. Raises IntegrityError where there is one of that name, also one that was made just now."""
        content = spec.model_dump(mode="json")
        row = ModelRouteRow(name=spec.name, spec=content, created_at=self._now, updated_at=self._now)
        self._session.add(row)
        self._session.flush()
        return _status(row)

    def replace(self, spec: RouteSpec) -> RouteStatus:
        """Changes the route of that name, which is there. The same again is no change."""
        row = self._session.get_one(ModelRouteRow, spec.name)
        content = spec.model_dump(mode="json")
        if row.spec != content:
            row.spec, row.updated_at = content, self._now
            self._session.add(row)
        return _status(row)

    def remove(self, name: str) -> None:
        """Removes the route, if it is there."""
        if (row := self._session.get(ModelRouteRow, name)) is not None:
            self._session.delete(row)

    def get(self, name: str, *, for_change: bool = False) -> RouteStatus | None:
        """One route, or None. `for_change`: nobody else changes it until the transaction ends."""
        row = self._session.get(ModelRouteRow, name, with_for_update=for_change or None)
        return _status(row) if row else None

    def all(self, *, after: str = "", limit: int | None = None) -> tuple[RouteStatus, ...]:
        """Routes by name, those behind `after` only, `limit` at most."""
        query = select(ModelRouteRow).where(col(ModelRouteRow.name) > after).order_by(ModelRouteRow.name).limit(limit)
        return tuple(_status(row) for row in self._session.exec(query))


def _status(row: ModelRouteRow) -> RouteStatus:
    return RouteStatus(spec=RouteSpec.model_validate(row.spec), created_at=row.created_at, updated_at=row.updated_at)
