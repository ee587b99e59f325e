"""The agent's side of the API, against the real API; and against what only pretends to be one."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stoker.certificates import check_issued, new_key_and_request
from stoker.domain.reports import JoinAnswer, WorkerReport
from stoker.secrets import new_one_time_token
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import JOIN_TOKEN, Api, away, listening, serving_api
from tests.builders import make_worker
from worker_agent.control_api import (
    CertificateRefusedError,
    ControlApi,
    JoinRefusedError,
    NotJoinedError,
    RemovedError,
    ServerAwayError,
)

pytestmark = pytest.mark.anyio

REPORT = WorkerReport(worker=make_worker(name="box"))


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """The real one."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('api') / 'stoker.db'}")
    migrate(database)
    async with serving_api(database) as running:
        yield running
    database.close()


class Agents:
    """Makes agents' ends, and closes them."""

    def __init__(self, identity_file: Path) -> None:
        self.identity_file = identity_file
        self._made: list[ControlApi] = []

    def __call__(self, url: str, *, token: str = JOIN_TOKEN) -> ControlApi:
        self._made.append(ControlApi(url, "box", token, self.identity_file))
        return self._made[-1]

    async def close(self) -> None:
        """Closes them all."""
        for made in self._made:
            await made.close()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agents]:
    """One after the other, on one folder."""
    made = Agents(tmp_path / "box" / "identity.json")
    yield made
    await made.close()


async def test_joining_gives_an_identity_that_outlives_the_agent(api: Api, agent: Agents) -> None:
    assert agent(api.url).identity is None
    first = agent(api.url + "/")
    with pytest.raises(NotJoinedError, match="has not joined yet"):
        await first.report(REPORT)
    identity = await first.join(REPORT)
    assert first.identity == identity
    assert stat.S_IMODE(agent.identity_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(agent.identity_file.parent.stat().st_mode) == 0o700
    assert [path.name for path in agent.identity_file.parent.iterdir()] == ["identity.json"]

    second = agent(api.url, token="")  # which needs the token no more
    assert second.identity == identity
    assert (await second.report(REPORT)).held == ()


async def test_another_agent_that_joins_in_its_name_ends_its_credential(api: Api, agent: Agents) -> None:
    mine = agent(api.url)
    await mine.join(REPORT)
    await api.join(REPORT.worker)
    with pytest.raises(NotJoinedError, match="another agent has joined") as refused:
        await mine.report(REPORT)
    assert refused.value.replaced
    assert (await mine.join(REPORT)).credential
    await mine.report(REPORT)


@pytest.mark.parametrize(
    ("token", "words"), [("st-join-wrong", "wrong join token"), ("", "set STOKER_WORKER__JOIN_TOKEN_FILE")]
)
async def test_without_the_join_token_it_is_no_use_to_try_again(
    api: Api, agent: Agents, token: str, words: str
) -> None:
    with pytest.raises(JoinRefusedError, match=words):
        await agent(api.url, token=token).join(REPORT)
    assert not agent.identity_file.exists()


async def test_a_name_that_the_server_does_not_take_is_refused_for_good(api: Api, agent: Agents) -> None:
    other = WorkerReport(worker=make_worker(name="other"))
    with pytest.raises(JoinRefusedError, match="of 'other', not of 'box'"):
        await agent(api.url).join(other)


async def test_an_api_that_is_away_is_worth_another_try(api: Api, agent: Agents) -> None:
    with pytest.raises(ServerAwayError, match=r"http://127\.0\.0\.1:1/api/v1/ does not answer"):
        await agent("http://127.0.0.1:1").join(REPORT)
    joined = agent(api.url)
    await joined.join(REPORT)
    with away(api.context.database):
        with pytest.raises(ServerAwayError, match="answered 503: the database does not answer"):
            await joined.report(REPORT)
        with pytest.raises(ServerAwayError, match="answered 503"):
            await joined.join(REPORT)
    await joined.report(REPORT)


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (200, "<html>", "is no API of Stoker's"),
        (200, "{}", "is no API of Stoker's"),
        (200, "", "is no API of Stoker's"),
        (404, "<html>not found</html>", "answered 404: <html>not found</html>"),
        (404, '["detail"]', "answered 404"),
        (500, '{"detail": "it broke"}', "answered 500: it broke"),
        (302, "", "answered 302"),
    ],
)
async def test_what_is_no_api_of_ours(agent: Agents, status: int, content: str, words: str) -> None:
    async def answer(_: Request) -> Response:
        return PlainTextResponse(content, status)

    agent.identity_file.parent.mkdir()
    agent.identity_file.write_text(JoinAnswer(credential="c", engine_secret="e").model_dump_json())
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])
    async with listening(app) as port:
        other = agent(f"http://127.0.0.1:{port}")
        for call in (other.join, other.report):
            with pytest.raises(ServerAwayError, match=words):
                await call(REPORT)
    assert other.identity == JoinAnswer(credential="c", engine_secret="e"), "what it knew, it still knows"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"credential": "c"}'])
async def test_a_damaged_identity_is_none_and_joining_mends_it(api: Api, agent: Agents, content: str) -> None:
    agent.identity_file.parent.mkdir()
    agent.identity_file.write_text(content)
    with structlog.testing.capture_logs() as logged:
        damaged = agent(api.url)
    assert [entry["event"] for entry in logged] == ["identity_file_unreadable"]
    assert damaged.identity is None
    await damaged.join(REPORT)
    assert agent(api.url).identity == damaged.identity


async def test_the_environments_proxies_are_not_for_us(
    api: Api, agent: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    await agent(api.url).join(REPORT)


async def test_no_secret_is_logged(api: Api, agent: Agents) -> None:
    with structlog.testing.capture_logs() as logged:
        joined = agent(api.url)
        identity = await joined.join(REPORT)
        await joined.report(REPORT)
    secrets = (JOIN_TOKEN, identity.credential, identity.engine_secret)
    assert not [secret for secret in secrets if secret in str(logged)]


# --- one-time tokens and certificates -------------------------------------------------------------------------------


async def one_time(api: Api, **body: object) -> str:
    """A token that `stoker workers token` would make."""
    response = await api.admin.post("/api/v1/join-tokens", json=body)
    token: str = response.raise_for_status().json()["token"]
    return token


async def test_a_one_time_token_lets_one_worker_in_with_its_labels(api: Api, agent: Agents) -> None:
    await api.admin.delete("/api/v1/workers/box")  # of an earlier test
    token = await one_time(api, labels={"zone": "lab"})
    mine = agent(api.url, token=token)
    assert mine.expected_authority == api.context.authority.fingerprint
    assert (await mine.join(REPORT)).labels == {"zone": "lab"}
    assert (await mine.report(REPORT)).held == ()
    assert agent(api.url, token="").identity == mine.identity, "the labels are kept with the rest"
    with pytest.raises(JoinRefusedError, match="was used by worker 'box'"):
        await mine.join(REPORT)
    another = await one_time(api)
    with pytest.raises(JoinRefusedError, match="there is a worker 'box' already"):
        await agent(api.url, token=another).join(REPORT)


async def test_a_token_is_not_shown_to_a_server_of_another_cluster(api: Api, agent: Agents) -> None:
    _, token = new_one_time_token("ab" * 32)
    with pytest.raises(JoinRefusedError) as refused:
        await agent(api.url, token=token).join(REPORT)
    assert f"the token names the authority {'ab' * 32}" in str(refused.value)
    assert f"the server's is {api.context.authority.fingerprint}" in str(refused.value)
    assert not agent.identity_file.exists()


@pytest.mark.parametrize(
    ("status", "content"),
    [(200, "{}"), (200, '{"certificate": "none", "fingerprint": "%s"}' % ("ab" * 32)), (404, ""), (500, "")],
)
async def test_what_cannot_show_its_authority_is_shown_no_token(agent: Agents, status: int, content: str) -> None:
    asked: list[tuple[str, str]] = []

    async def answer(request: Request) -> Response:
        asked.append((request.method, request.url.path))
        return PlainTextResponse(content, status)

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with listening(app) as port:
        with pytest.raises(ServerAwayError):
            await agent(f"http://127.0.0.1:{port}", token=new_one_time_token("ab" * 32)[1]).join(REPORT)
    assert asked == [("GET", "/api/v1/authority")]


async def test_certificates(api: Api, agent: Agents) -> None:
    mine = agent(api.url)
    key, request = new_key_and_request("worker/box")
    with pytest.raises(NotJoinedError, match="has not joined yet"):
        await mine.certificate(request)
    await mine.join(REPORT)
    answer = await mine.certificate(request)
    facts = check_issued(
        answer.certificate, authority_pem=api.context.authority.certificate, key_pem=key, holder="worker/box"
    )
    assert answer.authority == api.context.authority.certificate
    with pytest.raises(CertificateRefusedError, match="request: no certificate request"):
        await mine.certificate("nonsense")
    await api.join(REPORT.worker)
    with pytest.raises(NotJoinedError, match="another agent has joined"):
        await mine.certificate(request)
    assert facts.holder == "worker/box"


async def test_one_that_was_removed_is_told_so(api: Api, agent: Agents) -> None:
    mine = agent(api.url)
    await mine.join(REPORT)
    _, request = new_key_and_request("worker/box")
    await mine.certificate(request)
    (await api.admin.delete("/api/v1/workers/box")).raise_for_status()
    for call in (lambda: mine.report(REPORT), lambda: mine.certificate(request)):
        with pytest.raises(RemovedError, match="'box' was removed from this cluster"):
            await call()
    mine.forget()
    assert mine.identity is None
    assert not agent.identity_file.exists()
    mine.forget()
    assert (await mine.join(REPORT)).credential, "with a token it is let in again"
