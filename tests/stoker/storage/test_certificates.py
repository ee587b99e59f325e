"""Who holds which certificates, and whose are revoked."""

from datetime import timedelta

from sqlmodel import select

from stoker.certificates import IssuedCertificate
from stoker.storage.certificates import Certificates
from stoker.storage.engine import Database
from stoker.storage.tables import CertificateRow
from tests.stoker.storage.conftest import Clock


def add(database: Database, clock: Clock, holder: str, serial: str, hours: float = 24) -> None:
    """A certificate that was given out now."""
    issued = IssuedCertificate(certificate="pem", serial=serial, expires_at=clock() + timedelta(hours=hours))
    with database.write() as session:
        Certificates(session, clock()).add(holder, issued)


def revoke(database: Database, clock: Clock, holder: str) -> int:
    """All of the holder's."""
    with database.write() as session:
        return Certificates(session, clock()).revoke(holder)


def revoked(database: Database, clock: Clock) -> tuple[str, ...]:
    """Whom nobody may trust now."""
    with database.read() as session:
        return Certificates(session, clock()).revoked()


def living(database: Database, clock: Clock, holder: str) -> int:
    """How many the holder has."""
    with database.read() as session:
        return Certificates(session, clock()).living(holder)


def test_all_of_one_holder_are_revoked_and_nobody_elses(database: Database, clock: Clock) -> None:
    for holder, serial in (("worker/w1", "c"), ("worker/w1", "a"), ("worker/w10", "b"), ("server", "d")):
        add(database, clock, holder, serial)
    assert revoked(database, clock) == ()
    assert revoke(database, clock, "worker/w1") == 2
    assert revoked(database, clock) == ("a", "c")
    assert [living(database, clock, holder) for holder in ("worker/w1", "worker/w10", "server")] == [0, 1, 1]
    assert revoke(database, clock, "worker/w1") == 0, "again is fine"


def test_one_that_joined_again_has_certificates_beside_those_that_were_revoked(
    database: Database, clock: Clock
) -> None:
    add(database, clock, "worker/w1", "a")
    revoke(database, clock, "worker/w1")
    add(database, clock, "worker/w1", "b")
    assert (revoked(database, clock), living(database, clock, "worker/w1")) == (("a",), 1)


def test_what_has_expired_is_told_of_for_a_day_and_forgotten_in_the_end(database: Database, clock: Clock) -> None:
    add(database, clock, "worker/w1", "a", hours=1)
    add(database, clock, "worker/w1", "b", hours=48)
    clock.advance(hours=2)
    assert living(database, clock, "worker/w1") == 1
    assert revoke(database, clock, "worker/w1") == 1
    assert revoked(database, clock) == ("a", "b"), "connections that were made with the expired one may still be open"
    clock.advance(hours=25)
    assert revoked(database, clock) == ("b",)
    clock.advance(hours=24)
    assert revoked(database, clock) == ()
    assert revoke(database, clock, "worker/w1") == 0
    clock.advance(hours=24 * 400)
    add(database, clock, "server", "d")
    with database.read() as session:
        assert [row.serial for row in session.exec(select(CertificateRow))] == ["d"]
