"""Sessions of PostgreSQL: what others do to us there has an end, whatever the database's own defaults are.

And SQLite's file, which is nobody else's business.
"""

import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.storage import engine
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database, database_name, learned_before
from stoker.storage.fleet_cache import FleetCache
from tests.builders import make_request
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import host, join

WITHIN_SECONDS = 30.0


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """PostgreSQL only."""
    url: str = request.getfixturevalue("postgresql_url")
    database = Database(url)
    with database.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    database.close()
    return url


@pytest.fixture
def other(database: Database, database_url: str) -> Iterator[Database]:
    """The same database, as another process has it open."""
    opened = Database(database_url)
    yield opened
    opened.close()


def test_one_that_stands_still_loses_the_claiming_lock(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engine._SERVERS_DEADLINES, "idle_in_transaction_session_timeout", "200ms")
    frozen, passed = Database(database_url), threading.Event()

    def next_one() -> None:
        with database.claiming():
            passed.set()

    with pytest.raises(DBAPIError), frozen.claiming() as session:  # noqa: PT012 - its end is what is looked at
        session.execute(text("SELECT 1"))  # what psycopg sends behind statements sent together stops the server's clock
        thread = threading.Thread(target=next_one, daemon=True)
        thread.start()
        assert passed.wait(WITHIN_SECONDS), "the next one got the lock, while the frozen one stands still"
        session.execute(text("SELECT 1"))
    thread.join(WITHIN_SECONDS)
    frozen.close()


def test_every_session_has_the_deadlines(database: Database) -> None:
    with database.read() as session:
        idle = session.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
    assert idle == f"{engine.IDLE_SECONDS}s"


@pytest.mark.parametrize(("query", "expected"), [("", "10"), ("connect_timeout=3", "3")])
def test_what_the_url_says_comes_first(database_url: str, query: str, expected: str) -> None:
    database = Database(f"{database_url}{'&' if '?' in database_url else '?'}{query}" if query else database_url)
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.get_parameters()["connect_timeout"] == expected
    database.close()


def test_who_waited_for_the_lock_sees_what_came_meanwhile(
    database_url: str, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.engine.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"))
    ours, theirs = Database(database_url), Database(database_url)
    try:
        join(ours, clock, host("w1", room_for=1))
        ledger, outcomes = ClaimLedger(theirs, clock), list[object]()
        waits = threading.Thread(
            target=lambda: outcomes.append(ledger.place(make_request(instance_id="b"))), daemon=True
        )
        first = ClaimLedger(ours, clock)
        claiming = first._fleet.fleet

        def fleet(*parts: Any, **more: Any) -> Fleet:
            known = claiming(*parts, **more)
            if not waits.is_alive():
                waits.start()
                _await_a_waiter(database)
            return known

        monkeypatch.setattr(first._fleet, "fleet", fleet)
        assert isinstance(first.place(make_request(instance_id="a")), Placement)
        waits.join(WITHIN_SECONDS)
        (outcome,) = outcomes  # one that waited is answered, and not refused as not serializable
        assert isinstance(outcome, Unplaceable)
    finally:
        with database.engine.begin() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" RESET default_transaction_isolation'))
        ours.close()
        theirs.close()


def _await_a_waiter(database: Database) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    pause = threading.Event()
    for _ in range(300):
        with database.read() as session:
            if session.execute(waiting).scalar_one():
                return
        pause.wait(0.1)
    raise AssertionError("nobody waits for the claiming lock")


def test_a_question_that_was_never_answered_teaches_nothing(
    database: Database, other: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(database, clock, host("w1"))
    cache = FleetCache()
    with database.read() as session:
        cache.fleet(session, clock())
    with other.read() as session:
        session.connection()  # opened after the last answer: after a crash, for all that is known

    def crashed(*_: object) -> None:
        raise DBAPIError("SELECT", None, ConnectionError("the server is gone"))

    with database.read() as session, monkeypatch.context() as patched:
        patched.setattr(session, "execute", crashed)
        with pytest.raises(DBAPIError):
            cache.fleet(session, clock())
    with other.read() as session:
        assert not learned_before(session, cache._learned_at)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////srv/stoker.db", "SQLite, /srv/stoker.db"),
        ("postgresql://stoker:hunter2@db.example.org/fire", "PostgreSQL, fire on db.example.org"),
        ("postgresql:///fire?host=/run/postgresql", "PostgreSQL, fire"),
    ],
)
def test_a_database_is_called_by_no_password(url: str, name: str) -> None:
    assert database_name(url) == name


def test_a_new_sqlite_file_is_for_its_user_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new' / 'stoker.db'}")
    with database.write() as session:
        session.execute(text("CREATE TABLE secrets (one TEXT)"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    database.close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("stoker.db", "stoker.db-wal", "stoker.db-shm"), 0o600)
