"""Request ids, and HEAD."""

import asyncio

import pytest
import structlog

from tests.api.serving import Api
from tests.api.test_deployments import problem_of

pytestmark = pytest.mark.anyio


async def test_every_answer_names_its_request(lone_api: Api) -> None:
    ids = [(await lone_api.anyone.get(path)).headers["x-request-id"] for path in ("/livez", "/livez", "/nothing")]
    assert len(set(ids)) == 3
    assert all(request_id.startswith("req_") for request_id in ids)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-123", True), (b"x" * 128, True), (b"x" * 129, False), (b"with space", False), (b"\xe9", False)],
)
async def test_the_clients_own_id_is_kept_if_it_is_sound(lone_api: Api, given: bytes, kept: bool) -> None:
    answer = await lone_api.anyone.get("/livez", headers={b"x-request-id": given})
    assert (answer.headers["x-request-id"] == given.decode("latin-1")) is kept


async def test_an_id_does_not_outlive_its_request(lone_api: Api) -> None:
    """That logs name it while it lasts is seen in test_errors."""
    await lone_api.anyone.get("/livez", headers={"x-request-id": "mine"})
    assert "request_id" not in structlog.contextvars.get_contextvars()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/version", "/metrics", "/api/v1/deployments", "/openapi.json"])
async def test_head_is_get_without_the_body(lone_api: Api, path: str) -> None:
    get, head = await lone_api.admin.get(path), await lone_api.admin.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # which counts
        assert head.headers["content-length"] == str(len(get.content))


async def test_head_of_what_is_not_there_and_of_what_streams_for_ever(lone_api: Api) -> None:
    assert (await lone_api.admin.head("/api/v1/deployments/nobody")).status_code == 404
    async with asyncio.timeout(10):
        watch = await lone_api.admin.head("/api/v1/deployments", params={"watch": "true"})
        assert watch.headers["content-type"].startswith("text/event-stream")
        problem_of(await lone_api.admin.get("/api/v1/deployments/nobody"), 404, "not_found")  # on the same connection
