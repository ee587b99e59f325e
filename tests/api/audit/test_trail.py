"""The audit trail writes what it is told, whatever the database does, and counts what it cannot keep."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from api import background_writer
from api.audit import trail as trail_module
from api.audit.trail import STRANGERS_A_MINUTE, AuditTrail
from stoker.domain.audit import UNANSWERED, AuditEntry
from stoker.storage.audit import AuditFilter, audit_entries, write_entries
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import away

NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)
WITHIN = 20.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty one."""
    opened = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def trail(database: Database) -> Iterator[AuditTrail]:
    """Not started yet."""
    made = AuditTrail(database, lambda: NOW, 400)
    yield made
    made.close(WITHIN)


def entry(number: int = 0, **values: object) -> AuditEntry:
    """Made by an admin's key."""
    usual = AuditEntry(
        at=NOW, key_id="k", key_name="alice", action="a", method="POST", path="/", status=200, request_id=str(number)
    )
    return usual.model_copy(update=values)


def kept(database: Database) -> list[str]:
    """The request ids of what is in the database, the newest first."""
    with database.read() as session:
        return [one.entry.request_id for one in audit_entries(session, AuditFilter(), limit=1000)]


def eventually(true: Callable[[], bool]) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def counted(trail: AuditTrail) -> dict[str, float]:
    """What the metrics say: entries that wait, and those that were lost, by reason."""
    registry = CollectorRegistry()
    registry.register(trail)
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {sample.labels.get("reason", "waiting"): sample.value for sample in samples}


def test_entries_come_in_by_themselves(trail: AuditTrail, database: Database) -> None:
    trail.start()
    trail.record(entry(1))
    eventually(lambda: kept(database) == ["1"])
    trail.record(entry(2))
    eventually(lambda: kept(database) == ["2", "1"])
    eventually(lambda: counted(trail) == {"waiting": 0, "full": 0, "strangers": 0, "unwritable": 0})


def test_closing_writes_what_waits(trail: AuditTrail, database: Database) -> None:
    for number in range(500):
        trail.record(entry(number))
    assert counted(trail)["waiting"] == 500
    trail.start()
    trail.close(WITHIN)
    assert sorted(map(int, kept(database))) == list(range(500))


def test_entries_wait_while_the_database_is_away(trail: AuditTrail, database: Database) -> None:
    with capture_logs() as lines, away(database):
        trail.start()
        trail.record(entry(1))
        eventually(lambda: any(line["event"] == "audit_not_written" for line in lines))
        assert counted(trail)["waiting"] == 1
    eventually(lambda: kept(database) == ["1"])


def test_one_that_is_closed_while_the_database_is_away_gives_up_and_says_so(
    trail: AuditTrail, database: Database
) -> None:
    with capture_logs() as lines, away(database):
        trail.start()
        trail.record(entry(1))
        trail.close(0.0)
    assert [line["entries"] for line in lines if line["event"] == "audit_entries_left"] == [1]
    assert [line["status"] for line in lines if line["event"] == "change_asked"] == [200], "it is in the log"


def test_past_the_bound_the_newest_are_counted_and_stay_in_the_log(database: Database) -> None:
    trail = AuditTrail(database, lambda: NOW, 400, most_in_memory=2)
    with capture_logs() as lines:
        for number in range(5):
            trail.record(entry(number))
    assert counted(trail) | {"waiting": 2, "full": 3} == counted(trail)
    assert len([line for line in lines if line["event"] == "change_asked"]) == 5
    trail.start()
    trail.close(WITHIN)
    assert kept(database) == ["1", "0"]


@pytest.mark.parametrize(
    "refused",
    [
        {"key_id": "", "status": 401},
        {"key_id": "", "status": 422},
        {"key_id": "", "status": UNANSWERED},
        {"status": 403},
    ],
    ids=str,
)
def test_strangers_cannot_fill_the_table(trail: AuditTrail, refused: dict[str, object]) -> None:
    for number in range(STRANGERS_A_MINUTE + 7):
        trail.record(entry(number, **refused))
    trail.record(entry(status=422))
    trail.record(entry(status=UNANSWERED))
    trail.record(entry(key_id="", key_name="a join token"))
    assert counted(trail) | {"waiting": STRANGERS_A_MINUTE + 3, "strangers": 7} == counted(trail)
    trail.record(entry(at=NOW + timedelta(minutes=1), **refused))
    assert counted(trail)["waiting"] == STRANGERS_A_MINUTE + 4


def test_what_no_column_takes_does_not_hold_up_the_rest(
    trail: AuditTrail, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(session: object, entries: tuple[AuditEntry, ...]) -> None:
        if any(one.request_id == "2" for one in entries):
            raise ValueError("no column takes this")
        write_entries(session, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(trail_module, "write_entries", write)
    for number in range(4):
        trail.record(entry(number))
    trail.start()
    trail.close(WITHIN)
    assert kept(database) == ["3", "1", "0"]
    assert counted(trail) | {"waiting": 0, "unwritable": 1} == counted(trail)


def test_old_entries_go_by_themselves_and_whatever_goes_wrong_they_go_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "FORGET_EVERY_SECONDS", 0.01)
    troubles = [RuntimeError("a bug"), OperationalError("a statement", None, ConnectionError("away"))]
    forget = trail_module.forget_entries

    def forgetting(session: object, before: datetime) -> int:
        if troubles:
            raise troubles.pop()
        return forget(session, before)  # type: ignore[arg-type]

    monkeypatch.setattr(trail_module, "forget_entries", forgetting)
    monkeypatch.setattr(background_writer, "LONGEST_PAUSE_SECONDS", 0.01)
    with database.write() as session:
        write_entries(session, [entry(age, at=NOW - timedelta(days=age)) for age in (0, 399, 400, 401, 500)])
    trail = AuditTrail(database, lambda: NOW, 400)
    trail.start()
    eventually(lambda: kept(database) == ["0", "399", "400"])
    trail.close(WITHIN)


def test_many_threads_may_record(trail: AuditTrail, database: Database) -> None:
    def record(first: int) -> None:
        for number in range(first, first + 100):
            trail.record(entry(number))

    trail.start()
    threads = [threading.Thread(target=record, args=(first,)) for first in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trail.close(WITHIN)
    assert sorted(map(int, kept(database))) == list(range(400))
