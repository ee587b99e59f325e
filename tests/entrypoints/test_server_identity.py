"""The API's own identity in the mesh."""

import asyncio
import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from entrypoints import server_identity as module
from entrypoints.server_identity import ServerIdentity
from stoker.certificates import AUTHORITY_VALID, Authority, CertificateError
from stoker.identity_folder import IdentityFolder
from stoker.storage.certificates import Certificates
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import away
from tests.cluster import eventually_async
from tests.stoker.storage.conftest import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    """The server's."""
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with this version's tables."""
    opened = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    """The server's."""
    return IdentityFolder(tmp_path / "server" / "mesh", "server")


def test_it_is_renewed_at_half_of_its_life_and_with_another_authority(
    database: Database, folder: IdentityFolder, clock: Clock
) -> None:
    authority = Authority.new(clock())
    identity = ServerIdentity(database, authority, folder, clock)
    serials = []
    for hours in (0, 1, 11, 1, 11):
        clock.advance(hours=hours)
        identity.refresh()
        facts = folder.facts()
        assert facts is not None
        serials.append(facts.serial)
    assert [serials.index(serial) for serial in serials] == [0, 0, 2, 2, 4]
    other = Authority.new(clock())
    ServerIdentity(database, other, folder, clock).refresh()
    assert folder.fingerprint() == other.fingerprint
    with database.read() as session:
        assert Certificates(session, clock()).living("server") == 3, "of the last 24 hours"


def test_one_from_a_time_when_the_clock_was_ahead_is_replaced(
    database: Database, folder: IdentityFolder, clock: Clock
) -> None:
    identity = ServerIdentity(database, Authority.new(clock()), folder, clock)
    clock.advance(days=400)
    identity.refresh()
    clock.advance(days=-400)
    identity.refresh()
    facts = folder.facts()
    assert facts is not None
    assert facts.valid_from <= clock() < facts.expires_at


def test_it_knows_who_is_revoked(database: Database, folder: IdentityFolder, clock: Clock) -> None:
    authority = Authority.new(clock())
    identity = ServerIdentity(database, authority, folder, clock)
    identity.refresh()
    request = folder.request()
    issued = authority.issue(request, "worker/w1", clock())
    with database.write() as session:
        Certificates(session, clock()).add("worker/w1", issued)
        Certificates(session, clock()).revoke("worker/w1")
    identity.refresh()
    assert json.loads((folder.path / "revoked.json").read_text()) == [issued.serial]


def test_who_is_revoked_is_written_also_where_no_certificate_can_be_had(
    database: Database, folder: IdentityFolder, clock: Clock
) -> None:
    authority = Authority.new(clock())
    ServerIdentity(database, authority, folder, clock).refresh()
    clock.advance(hours=13)
    with database.write() as session:
        Certificates(session, clock()).add("worker/w1", authority.issue(folder.request(), "worker/w1", clock()))
        Certificates(session, clock()).revoke("worker/w1")
    expired = Authority.new(clock() - AUTHORITY_VALID)
    with pytest.raises(CertificateError, match="expired"):
        ServerIdentity(database, expired, folder, clock).refresh()
    assert len(json.loads((folder.path / "revoked.json").read_text())) == 1


def test_one_that_the_disk_does_not_take_is_not_given_out_again(
    database: Database, folder: IdentityFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = ServerIdentity(database, Authority.new(clock()), folder, clock)

    def full(*_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "keep", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                identity.refresh()
    identity.refresh()
    assert folder.facts() is not None
    with database.read() as session:
        assert Certificates(session, clock()).living("server") == 1


async def test_while_the_database_is_away_what_was_known_holds(
    database: Database, folder: IdentityFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    identity = ServerIdentity(database, Authority.new(clock()), folder, clock)
    identity.refresh()
    before = folder.facts()
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(identity.run())

        async def was_said() -> bool:
            return bool(logged)

        async def is_renewed() -> bool:
            return folder.facts() != before

        with away(database):
            await eventually_async(was_said, "the database is missed")
        clock.advance(hours=13)
        await eventually_async(is_renewed, "the certificate is renewed")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [entry["event"] for entry in logged].count("identity_not_refreshed") == 1, "not each time that it is tried"
    assert logged[0]["event"] == "identity_not_refreshed"


async def test_what_nobody_foresaw_does_not_end_it(
    database: Database, folder: IdentityFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process would end with it, and whatever that is answering."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    identity = ServerIdentity(database, Authority.new(clock()), folder, clock)
    fails = [RuntimeError("can't start new thread"), ValueError("no PEM file")]
    refresh = identity.refresh

    def refresh_or_fail() -> None:
        if fails:
            raise fails.pop()
        refresh()

    monkeypatch.setattr(identity, "refresh", refresh_or_fail)
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(identity.run())

        async def is_there() -> bool:
            return running.done() or folder.facts() is not None

        await eventually_async(is_there, "the certificate is made")
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["event"] for line in logged[:2]] == ["identity_refreshing_crashed"] * 2
