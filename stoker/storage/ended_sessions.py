"""Sessions of the web page that somebody signed out of: a copy of their cookie must open nothing any more."""

from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Session, col, select

from stoker.storage.keys import Keys
from stoker.storage.tables import EndedSessionRow


class EndedSessions:
    """Their repository within one session of the database."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def end(self, digest: str, expires_at: datetime) -> None:
        """Keeps that the session of this digest is over, until it would have expired. Ending it twice is once.

        Those that have expired go. Whoever keeps the keys in memory reads again, as after a change of a key.
        """
        self._session.execute(delete(EndedSessionRow).where(col(EndedSessionRow.expires_at) <= self._now))
        if self._session.get(EndedSessionRow, digest) is None:
            self._session.add(EndedSessionRow(digest=digest, expires_at=expires_at))
            self._session.flush()
        Keys(self._session, self._now).changed()

    def all(self) -> frozenset[str]:
        """The digests of those that would not have expired."""
        lasting = select(EndedSessionRow.digest).where(col(EndedSessionRow.expires_at) > self._now)
        return frozenset(self._session.exec(lasting))
