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

from stoker.domain.reports import JoinAnswer, WorkerReport
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import JOIN_TOKEN, Api, away, listening, serving_api
from tests.builders import make_worker
from worker_agent.control_api import ControlApi, JoinRefusedError, NotJoinedError, ServerAwayError

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
    assert not [secret for secret in (JOIN_TOKEN, *identity.model_dump().values()) if secret in str(logged)]
