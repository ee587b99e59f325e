"""What a ledger keeps in memory is what the rows say, whoever changed them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import event, text

from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.workers import WorkerState
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.tables import ClaimRow, FleetChangeRow
from stoker.storage.workers import UNREACHABLE_AFTER, Workers
from tests.builders import make_request
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import booked, fleet_of, host, join, known_fleet, report, size_of_one


@pytest.fixture
def other_database(database: Database, database_url: str) -> Iterator[Database]:
    """The same database as another process has it."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def ours(database: Database, clock: Clock) -> ClaimLedger:
    """A ledger that knows `w1`, with room for two, and `w2`, with room for one."""
    join(database, clock, host("w1", room_for=2))
    join(database, clock, host("w2", room_for=1))
    ledger = ClaimLedger(database, clock)
    assert_exact(ledger, database, clock)
    return ledger


@pytest.fixture
def theirs(other_database: Database, clock: Clock) -> ClaimLedger:
    """Another process's."""
    return ClaimLedger(other_database, clock)


def assert_exact(ledger: ClaimLedger, database: Database, clock: Clock) -> None:
    """What the ledger knows is what the rows say."""
    known = {
        name: (one.worker, {d: s for d, s in one.claimed.items() if s}) for name, one in fleet_of(ledger).hosts.items()
    }
    assert known == known_fleet(database, clock())
    assert list(known) == sorted(known)


def placed(ledger: ClaimLedger, name: str) -> str:
    """The worker where the instance went; empty: nowhere."""
    outcome = ledger.place(make_request(instance_id=name))
    return outcome.worker if isinstance(outcome, Placement) else ""


def test_claims_of_others_are_seen_at_once(
    ours: ClaimLedger, theirs: ClaimLedger, database: Database, clock: Clock
) -> None:
    assert [placed(ours, "a"), placed(theirs, "b"), placed(ours, "c"), placed(theirs, "d")] == ["w1", "w1", "w2", ""]
    assert_exact(ours, database, clock)
    assert_exact(theirs, database, clock)


def test_releases_of_others_are_seen_at_once(
    ours: ClaimLedger, theirs: ClaimLedger, database: Database, clock: Clock
) -> None:
    assert [placed(ours, name) for name in "abcd"] == ["w1", "w1", "w2", ""]
    assert theirs.release("b", 1) == ("d",)
    assert placed(ours, "d") == "w1"
    assert_exact(ours, database, clock)


def test_a_worker_that_joins_is_seen_at_once(ours: ClaimLedger, other_database: Database, clock: Clock) -> None:
    assert [placed(ours, name) for name in "abc"] == ["w1", "w1", "w2"]
    join(other_database, clock, host("w0", room_for=1))
    assert placed(ours, "d") == "w0"
    assert_exact(ours, other_database, clock)


@pytest.mark.parametrize("how", ["cordon", "drain"])
def test_a_cordon_of_others_is_seen_at_once(
    how: str, ours: ClaimLedger, theirs: ClaimLedger, database: Database, clock: Clock
) -> None:
    assert getattr(theirs, how)("w1")
    assert [placed(ours, "a"), placed(ours, "b")] == ["w2", ""]
    assert_exact(ours, database, clock)
    assert theirs.uncordon("w1") == ("b",)
    assert placed(ours, "b") == "w1"
    assert_exact(ours, database, clock)


def test_nobody_can_be_cordoned_who_is_not_there(ours: ClaimLedger) -> None:
    assert (ours.cordon("w9"), ours.drain("w9"), ours.uncordon("w9")) == (False, False, None)


def test_uncordoning_a_silent_worker_wakes_nobody(ours: ClaimLedger, database: Database, clock: Clock) -> None:
    assert ours.cordon("w1")
    clock.advance(seconds=UNREACHABLE_AFTER.total_seconds() + 1)
    assert placed(ours, "a") == ""
    assert ours.uncordon("w1") == ()
    report(database, clock, host("w1", room_for=2))
    assert ours.wakeable() == ("a",)


def test_a_report_of_more_room_is_seen_at_once(ours: ClaimLedger, other_database: Database, clock: Clock) -> None:
    assert [placed(ours, name) for name in "abcd"] == ["w1", "w1", "w2", ""]
    report(other_database, clock, host("w2", room_for=2))
    assert placed(ours, "d") == "w2"
    report(other_database, clock, host("w1", room_for=4))
    assert placed(ours, "e") == "w1"
    assert_exact(ours, other_database, clock)


def test_a_report_of_less_room_is_seen_within_a_second(
    ours: ClaimLedger, other_database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(other_database, clock, host("w1", room_for=2, used=1.5))
    monkeypatch.setattr("stoker.storage.fleet_cache.REPORTS_SECONDS", 0.0)  # the second has passed
    assert [placed(ours, "a"), placed(ours, "b")] == ["w2", ""]


def test_a_worker_falls_silent_and_comes_back(ours: ClaimLedger, database: Database, clock: Clock) -> None:
    clock.advance(seconds=UNREACHABLE_AFTER.total_seconds() - 1)
    report(database, clock, host("w2", room_for=1))
    clock.advance(seconds=2)
    assert placed(ours, "a") == "w2"
    assert ours.fleet().hosts["w1"].worker.state is WorkerState.UNREACHABLE
    assert_exact(ours, database, clock)
    report(database, clock, host("w1", room_for=2))
    assert placed(ours, "b") == "w1"
    assert_exact(ours, database, clock)


def test_what_was_rolled_back_was_never_there(
    ours: ClaimLedger, theirs: ClaimLedger, database: Database, clock: Clock
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the database went away")

    event.listen(database.engine, "commit", fail)
    with pytest.raises(ConnectionError):
        ours.place(make_request(instance_id="a"))
    with pytest.raises(ConnectionError):
        ours.cordon("w1")
    event.remove(database.engine, "commit", fail)
    assert booked(database) == {}
    assert_exact(ours, database, clock)
    assert [placed(ours, "b"), placed(theirs, "c"), placed(ours, "d")] == ["w1", "w1", "w2"]


def test_claims_of_a_worker_without_a_row_count_once_it_joins(
    ours: ClaimLedger, database: Database, clock: Clock
) -> None:
    with database.write() as session:
        session.add(ClaimRow(instance_id="lost", incarnation=1, worker="w3", device="cpu", size=2 * size_of_one()))
        session.add(FleetChangeRow(worker="w3", version=1 << 40))
    assert placed(ours, "a") == "w1"
    assert ours.release("nobody") == ()
    join(database, clock, host("w3", room_for=9))
    assert ours.fleet().hosts["w3"].claimed == {"cpu": 2 * size_of_one()}
    assert ours.release("lost") == ()
    assert_exact(ours, database, clock)


def test_a_worker_whose_row_is_removed_is_forgotten(ours: ClaimLedger, database: Database, clock: Clock) -> None:
    with database.write() as session:
        session.execute(text("DELETE FROM worker WHERE name = 'w1'"))
    assert_exact(ours, database, clock)
    assert [placed(ours, "a"), placed(ours, "b")] == ["w2", ""]


def test_a_restored_backup_is_read_anew(ours: ClaimLedger, database: Database, clock: Clock) -> None:
    with database.read() as session:
        backup = [
            (row.worker, row.version) for row in session.execute(text("SELECT worker, version FROM fleet_change"))
        ]
    assert [placed(ours, name) for name in "abc"] == ["w1", "w1", "w2"]
    with database.write() as session:
        session.execute(text("DELETE FROM claim"))
        for worker, version in backup:
            session.execute(text("UPDATE fleet_change SET version = :v WHERE worker = :w"), {"v": version, "w": worker})
    assert [placed(ours, name) for name in "defg"] == ["w1", "w1", "w2", ""], "versions went back: seen at once"
    assert_exact(ours, database, clock)


def test_a_restored_backup_that_others_went_on_from_is_read_anew(
    ours: ClaimLedger, database: Database, clock: Clock
) -> None:
    assert [placed(ours, name) for name in "abc"] == ["w1", "w1", "w2"]
    with database.write() as session:  # back to when nothing was claimed; then others claimed all of w2
        session.execute(text("DELETE FROM claim"))
        session.execute(text("UPDATE fleet_change SET version = 1 WHERE worker = 'w1'"))
        session.execute(text("UPDATE fleet_change SET version = version + 1 WHERE worker = 'w2'"))
        session.add(ClaimRow(instance_id="x", incarnation=1, worker="w2", device="cpu", size=size_of_one()))
    assert placed(ours, "d") == "w1", "there was no room on it before"
    assert_exact(ours, database, clock)


def test_only_what_changed_is_read(ours: ClaimLedger, theirs: ClaimLedger, database: Database, clock: Clock) -> None:
    before = ours.fleet()
    assert ours.fleet() is before
    assert placed(theirs, "a") == "w1"
    after = ours.fleet()
    assert after.hosts["w2"] is before.hosts["w2"]
    assert after.hosts["w1"] is not before.hosts["w1"]


def test_a_place_costs_few_questions(ours: ClaimLedger, database: Database) -> None:
    asked: list[str] = []
    placed(ours, "a")
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    assert placed(ours, "b") == "w1"
    reads = [statement for statement in asked if statement.lstrip().startswith("SELECT") and "lock" not in statement]
    writes = [statement for statement in asked if statement.lstrip().startswith("INSERT")]
    assert (len(reads), len(writes)) == (2, 3), asked
    assert not any("report " in statement or "report," in statement for statement in reads), "reports are long"


def test_an_unplaceable_one_is_refused_by_what_is_known_now(
    ours: ClaimLedger, database: Database, clock: Clock
) -> None:
    assert [placed(ours, name) for name in "abc"] == ["w1", "w1", "w2"]
    clock.advance(seconds=1)
    report(database, clock, host("w2", room_for=1, used=1))
    outcome = ours.place(make_request(instance_id="d"))
    assert isinstance(outcome, Unplaceable)
    with database.read() as session:
        assert {s.worker.name: s.worker.devices[0].used for s in Workers(session, clock()).all()}["w2"] == size_of_one()
    assert ours.fleet().hosts["w2"].worker.devices[0].used == size_of_one()
