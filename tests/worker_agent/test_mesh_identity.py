"""The worker's certificate: got, renewed and mended, against the real API; and who is revoked."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from stoker.certificates import Authority, new_key_and_request
from stoker.domain.reports import CertificateAnswer, WorkerReport
from stoker.identity_folder import IdentityFolder
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import JOIN_TOKEN, Api, away, serving_api
from tests.builders import make_worker
from tests.cluster import eventually_async
from tests.stoker.storage.conftest import Clock
from worker_agent import mesh_identity as module
from worker_agent.control_api import ControlApi, NotJoinedError, RemovedError, ServerAwayError
from worker_agent.mesh_identity import AuthorityDiffersError, CertificateKeeper

pytestmark = pytest.mark.anyio

REPORT = WorkerReport(worker=make_worker(name="box"))


@pytest.fixture
def clock() -> Clock:
    """The time of the server and of the agent."""
    return Clock()


@pytest.fixture
async def api(tmp_path: Path, clock: Clock) -> AsyncIterator[Api]:
    """The real one."""
    database = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(database)
    async with serving_api(database, clock=clock) as running:
        yield running
    database.close()


@pytest.fixture
async def control(api: Api, tmp_path: Path) -> AsyncIterator[ControlApi]:
    """The agent's end, joined."""
    made = ControlApi(api.url, "box", JOIN_TOKEN, tmp_path / "identity.json")
    await made.join(REPORT)
    yield made
    await made.close()


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    """The worker's, empty."""
    return IdentityFolder(tmp_path / "mesh", "worker/box")


@pytest.fixture
def identity(control: ControlApi, folder: IdentityFolder, clock: Clock) -> CertificateKeeper:
    """What keeps it current."""
    return CertificateKeeper(control, folder, clock=clock)


def serial(folder: IdentityFolder) -> str:
    """Of the certificate there."""
    facts = folder.facts()
    assert facts is not None
    return facts.serial


async def test_it_is_got_once_and_renewed_at_half_of_its_life(
    api: Api, folder: IdentityFolder, identity: CertificateKeeper, clock: Clock
) -> None:
    assert await identity.renew_if_due()
    first = serial(folder)
    assert folder.fingerprint() == api.context.authority.fingerprint
    for hours, renewed in ((0, False), (11.9, False), (0.1, True), (11.9, False), (0.1, True), (24, True), (100, True)):
        clock.advance(hours=hours)
        before = serial(folder)
        assert await identity.renew_if_due()
        assert (serial(folder) != before) is renewed, hours
    assert serial(folder) != first


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "authority.pem"])
async def test_what_was_lost_is_got_again_at_once(
    folder: IdentityFolder, identity: CertificateKeeper, name: str
) -> None:
    await identity.renew_if_due()
    (folder.path / name).unlink()
    assert await identity.renew_if_due()
    assert folder.facts() is not None


async def test_a_server_with_another_authority_is_refused_and_both_are_named(
    api: Api, folder: IdentityFolder, identity: CertificateKeeper, clock: Clock
) -> None:
    other = Authority.new(clock())
    folder.keep(other.issue(folder.request(), folder.holder, clock()).certificate, other.certificate)
    assert await identity.renew_if_due(), "it is good as it is"
    before = serial(folder)
    clock.advance(hours=13)
    with pytest.raises(AuthorityDiffersError) as refused:
        await identity.renew_if_due()
    assert f"the server's authority is {api.context.authority.fingerprint}" in str(refused.value)
    assert f"joined is {other.fingerprint}" in str(refused.value)
    assert (serial(folder), folder.fingerprint()) == (before, other.fingerprint)


async def test_the_authority_that_is_named_beyond_doubt_takes_the_place_of_the_kept_one(
    api: Api, control: ControlApi, folder: IdentityFolder, clock: Clock
) -> None:
    other = Authority.new(clock())
    folder.keep(other.issue(folder.request(), folder.holder, clock()).certificate, other.certificate)
    named = CertificateKeeper(control, folder, lambda: api.context.authority.fingerprint, clock)
    assert await named.renew_if_due()
    assert folder.fingerprint() == api.context.authority.fingerprint
    with pytest.raises(AuthorityDiffersError):
        await CertificateKeeper(control, folder, lambda: "ab" * 32, clock).renew_if_due()


async def test_a_clock_that_is_far_off_is_said_and_does_not_ask_without_end(
    control: ControlApi, folder: IdentityFolder
) -> None:
    late = Clock()
    late.advance(hours=13)
    with structlog.testing.capture_logs() as logged:
        assert not await CertificateKeeper(control, folder, clock=late).renew_if_due()
    assert [entry["event"] for entry in logged][-2:] == ["certificate_renewed", "clock_differs"]


async def test_one_that_does_not_hold_yet_is_asked_for_again(
    folder: IdentityFolder, identity: CertificateKeeper, clock: Clock
) -> None:
    await identity.renew_if_due()
    before = serial(folder)
    clock.advance(days=-400)  # the server's clock was ahead, and both are right now
    assert await identity.renew_if_due()
    assert serial(folder) != before


async def test_one_that_the_disk_did_not_take_is_not_asked_for_again(folder: IdentityFolder, clock: Clock) -> None:
    api = ScriptedApi(Authority.new(clock()), clock, None)
    identity = CertificateKeeper(api, folder, clock=clock)  # type: ignore[arg-type]
    folder.request()
    blocked = folder.path / "certificate.pem"
    blocked.mkdir()
    for _ in range(3):
        with pytest.raises(OSError, match="certificate"):
            await identity.renew_if_due()
    blocked.rmdir()
    assert await identity.renew_if_due()
    assert folder.facts() is not None


async def test_an_api_that_is_away_leaves_what_is_there(
    api: Api, folder: IdentityFolder, identity: CertificateKeeper, clock: Clock
) -> None:
    await identity.renew_if_due()
    before = serial(folder)
    clock.advance(hours=13)
    with away(api.context.database), pytest.raises(ServerAwayError, match="answered 503"):
        await identity.renew_if_due()
    assert serial(folder) == before
    assert await identity.renew_if_due()
    assert serial(folder) != before


async def test_who_is_revoked_is_kept(identity: CertificateKeeper, folder: IdentityFolder) -> None:
    with structlog.testing.capture_logs() as logged:
        for serials in (("b", "a"), ("a", "b"), ()):
            await identity.take_revoked(serials)
    assert [entry["count"] for entry in logged] == [2, 0]
    assert json.loads((folder.path / "revoked.json").read_text()) == []


async def test_a_disk_that_takes_nothing_is_said(control: ControlApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = CertificateKeeper(control, IdentityFolder(tmp_path / "file" / "mesh", "worker/box"))
    with structlog.testing.capture_logs() as logged:
        await broken.take_revoked(("a",))
    assert [entry["event"] for entry in logged] == ["revoked_not_kept"]
    with pytest.raises(OSError, match="file"):
        await broken.renew_if_due()


# --- without end ------------------------------------------------------------------------------------------------------


class ScriptedApi:
    """A ControlApi whose answers are scripted: an error, or None for a certificate."""

    expected_authority = None

    def __init__(self, authority: Authority, clock: Clock, *outcomes: Exception | None) -> None:
        self._authority, self._clock, self._outcomes = authority, clock, list(outcomes)

    async def certificate(self, request: str) -> CertificateAnswer:
        """As ControlApi's."""
        outcome = self._outcomes.pop(0)
        if outcome is not None:
            raise outcome
        issued = self._authority.issue(request, "worker/box", self._clock())
        return CertificateAnswer(certificate=issued.certificate, authority=self._authority.certificate)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times as fast."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(module, "MOST_RETRY_SECONDS", 0.06)


@pytest.mark.usefixtures("_quick")
async def test_it_tries_again_with_growing_pauses(folder: IdentityFolder, clock: Clock) -> None:
    failures = [ServerAwayError("away"), NotJoinedError("not yet"), *[ServerAwayError("away")] * 6]
    api = ScriptedApi(Authority.new(clock()), clock, *failures, None)
    with structlog.testing.capture_logs() as logged:
        running = asyncio.create_task(CertificateKeeper(api, folder, clock=clock).run())  # type: ignore[arg-type]

        async def is_there() -> bool:
            return "certificate_renewed" in [entry["event"] for entry in logged]

        await eventually_async(is_there, "there is a certificate")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [entry["event"] for entry in logged[:-1]] == ["certificate_not_renewed"] * 8
    assert [1000 * entry["retry_in_seconds"] for entry in logged[:-1]] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert folder.facts() is not None


@pytest.mark.usefixtures("_quick")
async def test_one_that_was_removed_stops(folder: IdentityFolder, clock: Clock) -> None:
    api = ScriptedApi(Authority.new(clock()), clock, ServerAwayError("away"), RemovedError("'box' was removed"))
    identity = CertificateKeeper(api, folder, clock=clock)  # type: ignore[arg-type]
    with pytest.raises(RemovedError):
        await asyncio.wait_for(identity.run(), 30)


def test_another_workers_certificate_is_not_taken(folder: IdentityFolder, clock: Clock) -> None:
    class OfAnother(ScriptedApi):
        async def certificate(self, request: str) -> CertificateAnswer:
            authority = Authority.new(clock())
            stranger = new_key_and_request("worker/other")[1]
            issued = authority.issue(stranger, "worker/other", clock())
            return CertificateAnswer(certificate=issued.certificate, authority=authority.certificate)

    identity = CertificateKeeper(OfAnother(Authority.new(clock()), clock), folder, clock=clock)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is that of 'worker/other', not of 'worker/box'"):
        asyncio.run(identity.renew_if_due())
    assert folder.facts() is None
