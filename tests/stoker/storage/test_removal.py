"""A worker that is removed leaves nothing behind, and nothing is placed on it from then on."""

from datetime import timedelta

import pytest
from sqlalchemy import func
from sqlmodel import select

from stoker.certificates import IssuedCertificate
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.storage import removal
from stoker.storage.certificates import Certificates
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.join_tokens import JoinTokens
from stoker.storage.removal import Removed, StillInUse, holders_of, remove_worker, was_removed
from stoker.storage.tables import ClaimRow, FleetChangeRow, JoinTokenRow, WorkerLinkRow, WorkerRow
from stoker.storage.workers import Workers
from tests.builders import make_request
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import host, join


@pytest.fixture
def ledger(database: Database, clock: Clock) -> ClaimLedger:
    """Of `w1` and `w2`, each with room for one."""
    for name in ("w1", "w2"):
        join(database, clock, host(name, room_for=1))
    return ClaimLedger(database, clock)


def remove(database: Database, clock: Clock, name: str, *, force: bool = False) -> Removed | StillInUse | None:
    """As the API does."""
    with database.claiming() as session:
        return remove_worker(session, clock(), name, force=force)


def placed(ledger: ClaimLedger, instance_id: str) -> str:
    """Where the instance went; empty: nowhere."""
    outcome = ledger.place(make_request(instance_id=instance_id))
    return outcome.worker if isinstance(outcome, Placement) else ""


def count(database: Database, row: type) -> int:
    """Rows of a table."""
    with database.read() as session:
        return session.exec(select(func.count()).select_from(row)).one()


def test_an_empty_one_is_gone_with_all_that_bears_its_name(
    database: Database, clock: Clock, ledger: ClaimLedger
) -> None:
    later = clock() + timedelta(hours=24)
    with database.write() as session:
        for holder, serial in (("worker/w1", "a"), ("worker/w1", "b"), ("worker/w2", "c")):
            issued = IssuedCertificate(certificate="", serial=serial, expires_at=later)
            Certificates(session, clock()).add(holder, issued)
        for worker, peer in (("w1", "w2"), ("w2", "w1"), ("w2", "w3")):
            session.add(WorkerLinkRow(worker=worker, peer=peer, checked_at=clock()))
        tokens = JoinTokens(session, clock())
        for token_id, worker in (("t1", "w1"), ("t2", "w2")):
            tokens.add(token_id, token_id, labels={}, valid=timedelta(hours=1))
            tokens.use(token_id, token_id, worker)
    assert remove(database, clock, "w1") == Removed(instances=(), certificates=2)
    assert remove(database, clock, "w1") is None
    with database.read() as session:
        assert [row.name for row in session.exec(select(WorkerRow))] == ["w2"]
        assert [(row.worker, row.peer) for row in session.exec(select(WorkerLinkRow))] == [("w2", "w3")]
        assert [row.id for row in session.exec(select(JoinTokenRow))] == ["t2"]
        assert Certificates(session, clock()).revoked() == ("a", "b")
        assert Workers(session, clock()).credential_hash("w1") is None


def test_one_in_use_stays_unless_it_is_forced(database: Database, clock: Clock, ledger: ClaimLedger) -> None:
    where = {placed(ledger, name): name for name in ("i-1", "i-2")}
    assert remove(database, clock, "w1") == StillInUse(instances=(where["w1"],))
    assert count(database, WorkerRow) == 2
    with database.read() as session:
        assert holders_of(session, "w1") == (where["w1"],)
    assert remove(database, clock, "w1", force=True) == Removed(instances=(where["w1"],), certificates=0)
    with database.read() as session:
        assert {row.worker for row in session.exec(select(ClaimRow))} == {"w2"}


def test_at_once_nobody_places_anything_there(database: Database, clock: Clock, database_url: str) -> None:
    join(database, clock, host("w1", room_for=2))
    opened = Database(database_url)
    ours, theirs = ClaimLedger(database, clock), ClaimLedger(opened, clock)
    assert (placed(ours, "i-1"), placed(theirs, "i-2")) == ("w1", "w1")  # both keep it in memory now
    ours.release("i-1")
    theirs.release("i-2")
    assert remove(database, clock, "w1") == Removed(instances=(), certificates=0)
    for ledger in (ours, theirs):
        outcome = ledger.place(make_request(instance_id="i-3"))
        assert isinstance(outcome, Unplaceable)
        assert list(ledger.fleet().hosts) == []
    opened.close()


def test_one_of_the_same_name_that_joins_is_another(database: Database, clock: Clock) -> None:
    join(database, clock, host("w1", room_for=2))
    ledger = ClaimLedger(database, clock)
    assert placed(ledger, "i-1") == "w1"
    ledger.release("i-1")
    remove(database, clock, "w1")
    join(database, clock, host("w1", room_for=1))
    assert ledger.fleet().hosts["w1"].worker.devices == host("w1", room_for=1).devices
    assert [placed(ledger, name) for name in ("i-1", "i-2")] == ["w1", ""]


def versions(database: Database) -> list[str]:
    """Of which workers there are any."""
    with database.read() as session:
        return sorted(row.worker for row in session.exec(select(FleetChangeRow)))


def test_several_that_are_removed_between_two_looks_are_all_known_to_be_gone(
    database: Database, clock: Clock, ledger: ClaimLedger
) -> None:
    join(database, clock, host("w3", room_for=1))
    where = placed(ledger, "i-1")
    rest = sorted({"w1", "w2", "w3"} - {where})
    for name in rest:
        remove(database, clock, name)
    assert placed(ledger, "i-2") == ""
    join(database, clock, host(rest[0], room_for=1))
    assert placed(ledger, "i-2") == rest[0]


def test_the_versions_of_those_removed_long_ago_are_forgotten_and_the_others_are_known_as_before(
    database: Database, clock: Clock, ledger: ClaimLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "KEPT_VERSIONS", 2)
    join(database, clock, host("w3", room_for=1))
    where = placed(ledger, "i-1")
    for number in range(4):
        join(database, clock, host(f"gone-{number}", room_for=1))
        remove(database, clock, f"gone-{number}")
        ledger.release("nobody")  # a look
    assert versions(database) == ["gone-2", "gone-3", "w1", "w2", "w3"]
    assert {name: sum(one.claimed.values()) > 0 for name, one in ledger.fleet().hosts.items()} == {
        name: name == where for name in ("w1", "w2", "w3")
    }
    assert sorted(placed(ledger, f"i-{number}") for number in (2, 3, 4)) == ["", *sorted({"w1", "w2", "w3"} - {where})]


def test_no_certificate_is_given_out_while_it_is_removed(database: Database, clock: Clock, ledger: ClaimLedger) -> None:
    with database.write() as session:
        assert Workers(session, clock()).hold("w1")
        assert not Workers(session, clock()).hold("nobody")
    remove(database, clock, "w1")
    with database.write() as session:
        assert not Workers(session, clock()).hold("w1")


def test_it_is_known_that_it_was_removed_until_it_joins_again(
    database: Database, clock: Clock, ledger: ClaimLedger
) -> None:
    def known() -> list[bool]:
        with database.read() as session:
            return [was_removed(session, name) for name in ("w1", "w2", "w3")]

    assert known() == [False, False, False]
    remove(database, clock, "w1")
    clock.advance(days=30)
    assert known() == [True, False, False]
    join(database, clock, host("w1"))
    assert known() == [False, False, False]
