"""Sessions that were ended: known until they would have expired."""

from datetime import UTC, datetime, timedelta

from stoker.storage.ended_sessions import EndedSessions
from stoker.storage.engine import Database
from stoker.storage.keys import Keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=12)


def test_an_ended_session_is_known_until_it_would_have_expired(database: Database) -> None:
    with database.write() as session:
        before = Keys(session, NOW).version()
        EndedSessions(session, NOW).end("a", LATER)
        EndedSessions(session, NOW).end("a", LATER)
        assert EndedSessions(session, NOW).all() == {"a"}
        assert Keys(session, NOW).version() != before, "who keeps them in memory reads again"
        assert EndedSessions(session, LATER).all() == frozenset()
        EndedSessions(session, LATER).end("b", LATER + timedelta(hours=1))
        assert EndedSessions(session, NOW).all() == {"b"}, "what has expired is gone"
