"""A worker's report as the rows take it: what is kept, what it means, and how little is asked when it says no news."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from stoker.certificates import IssuedCertificate
from stoker.domain.placement.types import Placement
from stoker.domain.reports import HeldIncarnation, StoredFile, WorkerReport
from stoker.domain.units import GIB
from stoker.domain.workers import Worker, WorkerState
from stoker.storage.certificates import Certificates
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.files import Files
from stoker.storage.held import Standing, claims_version, stands
from stoker.storage.reports import Reporter, Reports, Taken
from stoker.storage.workers import UNREACHABLE_AFTER, Workers
from tests.builders import make_device, make_request, make_spec, make_worker
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.fleets import join

SILENT = timedelta(seconds=1) + UNREACHABLE_AFTER


def taken(database: Database, clock: Clock, told: WorkerReport) -> tuple[Reporter, Taken]:
    """As the API takes it."""
    with database.write() as session:
        reports = Reports(session, clock())
        known = reports.known(told.worker.name)
        assert known is not None
        found = reports.take(known, told)
        assert found is not None
    return known, found


def gpus(count: int = 1, *, total: int = 24 * GIB, used: int = 0) -> Worker:
    """A host with so many GPUs."""
    devices = (make_device(id=f"gpu{n}", engine_name=f"CUDA{n}", total=total, used=used) for n in range(count))
    return make_worker(name="w1", devices=tuple(devices))


def place(ledger: ClaimLedger, name: str, incarnation: int = 1) -> None:
    spec = make_spec(devices=(("w1", "gpu0"),))
    assert isinstance(ledger.place(make_request(instance_id=name, incarnation=incarnation, spec=spec)), Placement)


def row(database: Database) -> tuple[Any, ...]:
    """What a report may change."""
    with database.read() as session:
        return tuple(session.execute(text("SELECT report_version, cast(report AS text), seen_at FROM worker")).one())


def test_one_without_news_is_a_sign_of_life_and_no_more(database: Database, clock: Clock) -> None:
    join(database, clock, gpus())
    version, content, seen_at = row(database)
    clock.advance(seconds=5)
    known, _ = taken(database, clock, WorkerReport(worker=gpus()))
    after = row(database)
    assert after[:2] == (version, content)
    assert after[2] > seen_at
    assert (known.credential_hash, known.report) == ("hash", gpus().model_dump(mode="json"))
    taken(database, clock, WorkerReport(worker=gpus(used=GIB)))
    assert row(database)[0] == version + 1
    with database.read() as session:
        status = Workers(session, clock()).get("w1")
    assert status is not None
    assert status.worker == gpus(used=GIB)


def test_one_without_news_asks_little(database: Database, clock: Clock) -> None:
    join(database, clock, gpus())
    place(ClaimLedger(database, clock), "a")
    told = WorkerReport(worker=gpus(), running=(HeldIncarnation(instance_id="a", incarnation=1),))
    taken(database, clock, told)
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2].split()[0]))
    taken(database, clock, told)
    assert [word for word in asked if word != "BEGIN"] == ["SELECT"] * (not database.is_sqlite) + [
        "SELECT",
        "UPDATE",
        "SELECT",
    ]


@pytest.mark.parametrize(
    ("before", "silent", "after", "settled", "gained"),
    [
        (gpus(), False, gpus(), True, False),
        (gpus(), True, gpus(), True, True),
        (gpus(), True, gpus(), False, False),
        (gpus(), False, gpus(2), True, True),
        (gpus(2), False, gpus(), True, False),
        (gpus(used=2 * GIB), False, gpus(used=GIB), True, True),
        (gpus(used=GIB), False, gpus(used=2 * GIB), True, False),
        (gpus(), False, gpus().model_copy(update={"labels": {"zone": "a"}}), True, True),
        (gpus(), False, gpus().model_copy(update={"engine": None}), True, True),
        (gpus(), False, gpus().model_copy(update={"os": "linux"}), True, False),
    ],
)
def test_who_waits_is_looked_for_where_something_may_fit_now(
    database: Database, clock: Clock, before: Worker, silent: bool, after: Worker, settled: bool, gained: bool
) -> None:
    join(database, clock, before)
    if silent:
        clock.now += SILENT
    assert taken(database, clock, WorkerReport(worker=after, settled=settled))[1].gained_room is gained


def test_what_claims_take_does_not_count_as_room(database: Database, clock: Clock) -> None:
    join(database, clock, gpus(used=GIB))
    place(ClaimLedger(database, clock), "a")
    assert not taken(database, clock, WorkerReport(worker=gpus(used=0)))[1].gained_room, "the claim is larger"


def test_what_was_cordoned_and_silent_is_cordoned_again(database: Database, clock: Clock) -> None:
    join(database, clock, gpus())
    with database.write() as session:
        Workers(session, clock()).cordon("w1", True)
    clock.now += SILENT
    known, found = taken(database, clock, WorkerReport(worker=gpus()))
    assert (known.state(clock()), found.gained_room) == (WorkerState.UNREACHABLE, True)


def held_none(ledger: ClaimLedger) -> None:
    """Nothing was placed."""


def held_two(ledger: ClaimLedger) -> None:
    """Two on one device."""
    place(ledger, "a")
    place(ledger, "b")


def one_ending(ledger: ClaimLedger) -> None:
    """Of one it is not known whether its process is gone."""
    held_two(ledger)
    ledger.release("a", 1, unconfirmed=["w1"])


def a_later_incarnation(ledger: ClaimLedger) -> None:
    """One goes on beside what is left of it."""
    one_ending(ledger)
    place(ledger, "a", 2)


@pytest.mark.parametrize("made", [held_none, held_two, one_ending, a_later_incarnation])
@pytest.mark.parametrize("running", [None, (), (("a", 1),), (("a", 2), ("b", 1)), (("a", 1), ("a", 2), ("b", 1))])
@pytest.mark.parametrize("is_late", [False, True])
def test_how_it_stands(
    database: Database,
    clock: Clock,
    made: Callable[[ClaimLedger], None],
    running: tuple[tuple[str, int], ...] | None,
    is_late: bool,
) -> None:
    worker = gpus(total=48 * GIB)
    join(database, clock, worker)
    made(ClaimLedger(database, clock))
    there = None
    if running is not None:
        there = tuple(HeldIncarnation(instance_id=name, incarnation=number) for name, number in running)
    with database.read() as session:
        version = claims_version(session, "w1")
        told = WorkerReport(worker=worker, running=there, answered=version - is_late)
        expected = stands(session, told)
    found = taken(database, clock, told)[1].standing
    assert found == expected
    is_over = made in (one_ending, a_later_incarnation) and running is not None and ("a", 1) not in running
    assert found == Standing(found.held, version, there if is_over and not is_late else None)


def test_files_are_kept_where_they_are_told(database: Database, clock: Clock) -> None:
    join(database, clock, gpus())
    file = StoredFile(model="hf:a/b@c/d.gguf", path="d.gguf", size=7, done=3)
    for files in ((file,), None):
        taken(database, clock, WorkerReport(worker=gpus(), files=files))
        with database.read() as session:
            (model,) = Files(session, clock()).all()["w1"]
            assert model.files == (file,)


def test_who_is_revoked_is_told_in_order_until_it_expires(database: Database, clock: Clock) -> None:
    join(database, clock, gpus())
    assert taken(database, clock, WorkerReport(worker=gpus()))[0].revoked == ()
    with database.write() as session:
        certificates = Certificates(session, clock())
        for serial, holder, hours in (("c", "x", 1), ("a", "x", 3), ("b", "y", 3)):
            expires_at = clock() + timedelta(hours=hours)
            certificates.add(holder, IssuedCertificate(certificate="", serial=serial, expires_at=expires_at))
        certificates.revoke("x")
    assert taken(database, clock, WorkerReport(worker=gpus()))[0].revoked == ("a", "c")
    clock.now += timedelta(hours=2)
    assert taken(database, clock, WorkerReport(worker=gpus()))[0].revoked == ("a",)


def test_one_that_is_not_there_or_goes_meanwhile(database: Database, clock: Clock) -> None:
    with database.write() as session:
        assert Reports(session, clock()).known("w1") is None
    join(database, clock, gpus())
    with database.write() as session:
        reports = Reports(session, clock())
        known = reports.known("w1")
        assert known is not None
        session.execute(text("DELETE FROM worker"))
        assert reports.take(known, WorkerReport(worker=gpus())) is None


def test_marks_tell_each_change_of_the_fleet_and_nothing_else(database: Database, clock: Clock) -> None:
    def marks() -> tuple[object, ...]:
        with database.read() as session:
            return Workers(session, clock()).marks()

    join(database, clock, gpus())
    ledger = ClaimLedger(database, clock)
    before = marks()
    clock.advance(seconds=5)
    taken(database, clock, WorkerReport(worker=gpus()))
    assert marks() == before

    def cordon() -> None:
        assert ledger.cordon("w1")

    changes: list[Callable[[], object]] = [
        lambda: taken(database, clock, WorkerReport(worker=gpus(used=GIB))),
        lambda: place(ledger, "a"),
        cordon,
        lambda: clock.advance(seconds=SILENT.total_seconds()),
        lambda: join(database, clock, make_worker(name="w2")),
    ]
    for change in changes:
        change()
        after = marks()
        assert after != before
        before = after
