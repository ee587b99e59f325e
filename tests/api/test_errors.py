"""Every refusal of the management API is a problem+json, whatever went wrong and whoever noticed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import structlog
from sqlalchemy.exc import InterfaceError
from sqlalchemy.exc import TimeoutError as NoFreeConnectionError
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.exceptions import CancelledError as TemporalCancelledError
from temporalio.service import RPCError, RPCStatusCode

from api.errors import STATUS_BY_CODE, Problem, of_temporal
from api.middleware import MAX_BODY_BYTES
from stoker.domain.keys import Role
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.api.serving import Api, add_key, away
from tests.api.test_deployments import problem_of

pytestmark = pytest.mark.anyio

PATH = "/api/v1/deployments"


@pytest.mark.parametrize("path", ["/api", "/api/v1", "/api/v2/deployments", "/api/v1/nothing", "/favicon.ico"])
async def test_an_unknown_path(lone_api: Api, path: str) -> None:
    problem = problem_of(await lone_api.anyone.get(path), 404, "not_found")
    assert problem.detail == f"GET {path}: Not Found"
    assert problem.type == "urn:stoker:problem:not_found"
    assert problem.title == "Not Found"


async def test_a_method_that_is_not_there(lone_api: Api) -> None:
    response = await lone_api.admin.put(PATH, json={})
    problem_of(response, 405, "method_not_allowed")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"", "body", "required"),
        (b"{", "body", "no valid JSON: Expecting property name"),
        (b'{"name": "x",}', "body", "no valid JSON"),
        (b"[]", "body", "valid dictionary"),
        (b'"text"', "body", "valid dictionary"),
        (b"\xff\xfe", "", ""),
        (b"[" * 100_000, "", ""),
        (b'{"name": "x", "model": "hf:a/b", "replicas": ' + b"9" * 5000 + b"}", "", ""),
        (b'{"name": "x", "model": "hf:a/b", "replicas": NaN}', "replicas", "finite"),
        (b'{"name": "x", "model": "hf:a/b", "replicas": Infinity}', "replicas", "finite"),
        (b'{"name": "\\ud800", "model": "hf:a/b"}', "name", "unicode"),
        (b'{"name": "x", "model": "hf:a/b", "\\ud800": 1}', "body", "unicode"),
        (b'{"name": "x", "model": "hf:\\ud800"}', "model", "unicode"),
    ],
)
async def test_a_body_that_is_no_deployment(lone_api: Api, body: bytes, field: str, words: str) -> None:
    response = await lone_api.admin.post(PATH, content=body, headers={"content-type": "application/json"})
    problem = problem_of(response, 422, "invalid_request")
    if field:
        (error,) = problem.errors
        assert error.field == field
        assert words in error.message
        assert words in problem.detail


async def test_a_body_that_is_not_called_json(lone_api: Api) -> None:
    body = json.dumps({"name": "x", "model": "hf:a/b"})
    response = await lone_api.admin.post(PATH, content=body, headers={"content-type": "text/plain"})
    problem_of(response, 422, "invalid_request")


async def test_several_wrong_fields_are_all_named(lone_api: Api) -> None:
    problem = problem_of(await lone_api.admin.post(PATH, json={"name": "-", "replicas": -1}), 422, "invalid_request")
    assert [error.field for error in problem.errors] == ["name", "model", "replicas"]
    assert [part.split(": ")[0] for part in problem.detail.split("; ")] == ["name", "model", "replicas"]


async def _pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65536 + 1):
        yield b"x" * 65536


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/v1/keys", "GET, HEAD, POST"),
        ("/api/v1/keys/0123456789ab", "DELETE, GET, HEAD, PATCH"),
        ("/api/v1/workers/w1/cordon", "POST"),
        ("/livez", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_there_is_told_those_that_are(lone_api: Api, path: str, allow: str) -> None:
    response = await lone_api.admin.request("OPTIONS", path)
    problem_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_without_end_is_refused_before_it_is_kept(lone_api: Api, announced: bool) -> None:
    size = 2 * MAX_BODY_BYTES
    headers = {"content-type": "application/json"} | ({"content-length": str(size)} if announced else {})
    content = b"x" * size if announced else _pieces(size)
    async with httpx.AsyncClient(base_url=lone_api.url, trust_env=False) as client:  # nobody in particular
        response = await client.post(PATH, content=content, headers=headers)
    problem_of(response, 413, "body_too_large")


async def test_a_body_that_never_ends_holds_no_connection(lone_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.middleware.BODY_SECONDS", 0.05)
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(lone_api.anyone.base_url.host, lone_api.anyone.base_url.port)
        writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{" % PATH.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head


async def test_a_bug_is_a_500_that_says_nothing_of_itself(lone_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("a secret detail")

    monkeypatch.setattr(Keys, "all", broken)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        response = await lone_api.admin.get("/api/v1/keys", headers={"x-request-id": "which-one"})
    problem = problem_of(response, 500, "internal_error")
    assert "secret detail" not in response.text
    assert "the server's log has the details" in problem.detail
    (entry,) = (entry for entry in logged if entry["event"] == "unhandled_error")
    assert (entry["path"], entry["request_id"]) == ("/api/v1/keys", "which-one")
    assert isinstance(entry["exc_info"], LookupError)


# --- what we depend on is away ----------------------------------------------------------------------------------------


@pytest.fixture
def database_away(database: Database) -> Iterator[None]:
    """The database cannot be opened during the test."""
    with away(database):
        yield


@pytest.mark.usefixtures("database_away")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", PATH, None),
        ("GET", f"{PATH}/some", None),
        ("PATCH", f"{PATH}/some", {}),
        ("DELETE", f"{PATH}/some", None),
        ("GET", "/api/v1/instances", None),
        ("GET", "/api/v1/instances/some-1/logs", None),
        ("GET", "/api/v1/workers", None),
        ("GET", "/api/v1/keys", None),
        ("POST", "/api/v1/keys", {"name": "x"}),
    ],
)
async def test_without_the_database(lone_api: Api, method: str, path: str, body: dict[str, str] | None) -> None:
    response = await lone_api.admin.request(method, path, json=body)
    problem = problem_of(response, 503, "database_unavailable")
    assert problem.detail == "the database does not answer; try again shortly"
    assert response.headers["retry-after"] == "5"


async def test_with_a_database_that_comes_back(lone_api: Api, database: Database) -> None:
    with away(database):
        assert (await lone_api.admin.get(PATH)).status_code == 503
    assert (await lone_api.admin.get(PATH)).status_code == 200


@pytest.mark.parametrize(
    "error", [InterfaceError("select", {}, Exception("cut off")), NoFreeConnectionError("QueuePool limit reached")]
)
async def test_other_ways_in_which_a_database_is_away(
    lone_api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Keys, "all", failing)
    problem_of(await lone_api.admin.get("/api/v1/keys"), 503, "database_unavailable")


def refused(message: str, code: str | None) -> WorkflowUpdateFailedError:
    """How the client learns that the deployment's workflow refused."""
    return WorkflowUpdateFailedError(ApplicationError(message, type=code))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (refused("no such file: /m.gguf", "file_not_found"), "file_not_found", "no such file: /m.gguf"),
        (refused("is at generation 2", "generation_conflict"), "generation_conflict", "is at generation 2"),
        (refused("whatever", "new_code_of_another_version"), "inspection_failed", "whatever"),
        (refused("whatever", None), "inspection_failed", "whatever"),
        (WorkflowUpdateFailedError(TemporalCancelledError("gone")), "internal_error", "the deployment's workflow"),
        (WorkflowUpdateRPCTimeoutOrCancelledError(), "control_plane_unavailable", "the control plane has not answered"),
        (RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b""), "not_found", "gone already"),
        (RPCError("no connection", RPCStatusCode.UNAVAILABLE, b""), "temporal_unavailable", "no connection"),
        (RuntimeError("Failed client connect"), "temporal_unavailable", "Temporal does not answer"),
    ],
)
def test_what_a_failed_call_to_temporal_means(error: Exception, code: str, words: str) -> None:
    problem = of_temporal(error)
    assert problem.code == code
    assert words in problem.detail


def test_every_code_has_a_status_that_says_whose_turn_it_is() -> None:
    assert {status for status in STATUS_BY_CODE.values() if not 400 <= status < 600} == set()
    again = {code for code, status in STATUS_BY_CODE.items() if status == 503}
    assert again == {
        "hub_unavailable",
        "url_unavailable",
        "no_worker",
        "temporal_unavailable",
        "control_plane_unavailable",
        "database_unavailable",
    }
    assert set(Problem.model_fields) == {"type", "title", "status", "detail", "code", "errors"}


async def test_a_key_works_while_the_database_is_away(lone_api: Api, database: Database) -> None:
    _, key = add_key(database, Role.USER, "app")
    await lone_api.context.keyring.refresh()
    with away(database):
        await lone_api.context.keyring.refresh()
        response = await lone_api.anyone.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 200
