"""The ways between workers, as they were last checked."""

from collections.abc import Collection, Sequence

from sqlmodel import Session, col, select

from stoker.domain.base import WorkerName
from stoker.domain.links import WorkerLink
from stoker.storage.engine import Database
from stoker.storage.tables import WorkerLinkRow


class Links:
    """The links' repository within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def keep(self, links: Sequence[WorkerLink]) -> None:
        """Replaces what was known of the same pairs, unless that is younger."""
        for link in links:
            row = self._session.get(WorkerLinkRow, (link.worker, link.peer))
            if row is None or row.checked_at <= link.checked_at:
                self._session.merge(WorkerLinkRow(**link.model_dump()))

    def of(self, workers: Collection[WorkerName]) -> dict[tuple[WorkerName, WorkerName], WorkerLink]:
        """All that begin at one of `workers`, by both ends."""
        if not workers:
            return {}
        rows = self._session.exec(select(WorkerLinkRow).where(col(WorkerLinkRow.worker).in_(sorted(workers))))
        return {(row.worker, row.peer): WorkerLink.model_validate(row, from_attributes=True) for row in rows}


class RowLinks:
    """Satisfies `activities.ports.KnownLinks`. Each call is one transaction and may be repeated."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, links: Sequence[WorkerLink]) -> None:
        """See `KnownLinks`."""
        with self._database.write() as session:
            Links(session).keep(links)
