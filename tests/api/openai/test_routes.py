"""Paths, methods, keys, models and bodies: what is answered without an engine."""

import json
from typing import Any

import httpx
import pytest

from api.openai.call import Receive, Scope, Send
from api.openai.proxy import ProxyLimits
from api.openai.router import RouteTable
from api.openai.routes import beside
from tests.api.openai.serving import KEY, Routes, model, open_door, say, serving
from tests.fakes.engine import FakeEngine, answer
from tests.fakes.engine import Send as Reply

pytestmark = pytest.mark.anyio

FOUR_KEYS = {"message", "type", "param", "code"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, in the shape that every client can read."""
    body = response.json()
    assert set(body["error"]) == FOUR_KEYS
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


async def test_models_are_listed_and_retrieved() -> None:
    async with open_door([model(name="m"), model(name="org/name:q4"), model(name="é ü")]) as door:
        listed = (await door.client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [item["id"] for item in listed["data"]] == ["m", "org/name:q4", "é ü"]
        assert listed["data"][0] == {"id": "m", "object": "model", "created": 1_700_000_000, "owned_by": "stoker"}
        for path in ("m", "org/name:q4", "org%2Fname%3Aq4", "%C3%A9%20%C3%BC"):
            found = await door.client.get(f"/v1/models/{path}")
            assert found.status_code == 200
            assert found.json() in listed["data"]
        unknown = await door.client.get("/v1/models/org/other")
        assert unknown.status_code == 404
        assert error_of(unknown)["code"] == "model_not_found"


async def test_a_model_that_is_new_is_found_by_reading_the_table_again() -> None:
    routes = Routes()
    routes.later(model(name="new"))
    async with open_door(routes) as door:
        assert (await door.client.get("/v1/models/new")).status_code == 200
        assert (await door.client.get("/v1/models/new")).status_code == 200
        assert routes.refreshes == 1, "it is known, with or without an engine"


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"),
    [
        ("GET", "/v1", 404, "unknown_url", None),
        ("GET", "/v1/", 404, "unknown_url", None),
        ("POST", "/v1/nowhere", 404, "unknown_url", None),
        ("GET", "/v1/models/", 404, "unknown_url", None),
        ("GET", "/v1/modelsx", 404, "unknown_url", None),
        ("GET", "/v1/v1/models", 404, "unknown_url", None),
        ("POST", "/v1/slots/0", 404, "unknown_url", None),
        ("POST", "/v1/props", 404, "unknown_url", None),
        ("POST", "/v1/lora-adapters", 404, "unknown_url", None),
        ("POST", "/v1/chat/completions/", 404, "unknown_url", None),
        ("POST", "/v1/" + "x" * 5000, 404, "unknown_url", None),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed", "POST, OPTIONS"),
        ("HEAD", "/v1/embeddings", 405, None, "POST, OPTIONS"),
        ("DELETE", "/v1/models/m", 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
        ("POST", "/v1/models", 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, code: str | None, allow: str | None) -> None:
    async with open_door([model()]) as door:
        response = await door.client.request(method, path)
        assert response.status_code == status
        assert response.headers.get("allow") == allow
        if code is not None:
            assert error_of(response)["code"] == code
            assert len(response.content) < 500


async def test_head_and_options() -> None:
    async with open_door([model()]) as door:
        listed, head = await door.client.get("/v1/models"), await door.client.head("/v1/models")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(listed.content))
        for path, allow in (("/v1/models", "GET, HEAD, OPTIONS"), ("/v1/completions", "POST, OPTIONS")):
            options = await door.client.options(path, headers={"authorization": ""})
            assert (options.status_code, options.headers["allow"], options.content) == (204, allow, b"")
            assert "access-control-allow-origin" not in options.headers  # keys are not for web pages


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([f"Authorization: Bearer {KEY}"], 200),
        ([f"authorization: bearer   {KEY}  "], 200),
        ([f"X-Api-Key: {KEY}"], 200),
        (["Authorization: Basic abc", f"x-api-key: {KEY}"], 200),
        ([f"Authorization: Bearer {KEY}", "x-api-key: wrong"], 200),
        ([], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization: Bearer "], 401),
        (["Authorization: Bearer wrong"], 401),
        ([f"Authorization: {KEY}"], 401),
        ([f"Authorization: Basic {KEY}"], 401),
        (["x-api-key:"], 401),
        (["Authorization: Bearer \xff"], 401),
    ],
)
async def test_keys(headers: list[str], status: int) -> None:
    async with open_door([model()]) as door:
        for path in ("/v1/models", "/v1/models/m"):
            lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]
            head, _, body = (await say(door.url, "\r\n".join(lines).encode("latin-1"))).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            if status == 401:
                assert b"www-authenticate: Bearer" in head
                assert b"wrong" not in body
                assert json.loads(body)["error"]["code"] == "invalid_api_key"


async def test_the_body_of_a_request_without_a_key_is_not_looked_at() -> None:
    async with open_door([model()]) as door:
        response = await door.client.post("/v1/chat/completions", content=b"{", headers={"authorization": ""})
        assert response.status_code == 401


async def test_request_ids_come_back() -> None:
    async with open_door([model()]) as door:
        for name in ("x-request-id", "x-client-request-id"):
            response = await door.client.get("/v1/models", headers={name: "mine-1"})
            assert response.headers["x-request-id"] == "mine-1"
        made = {(await door.client.get("/v1/models")).headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        for bad in ("x" * 129, "a b", "a\tb", ""):
            response = await door.client.get("/v1/models", headers={"x-request-id": bad})
            assert response.headers["x-request-id"].startswith("req_")
        assert int(response.headers["openai-processing-ms"]) >= 0


HEAD = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
LIMITS = ProxyLimits(body_size=1000, body_time=0.1)


@pytest.mark.parametrize("size", [1001, 4000])
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_body_too_large_is_refused_and_its_sender_sees_why(size: int, in_pieces: bool) -> None:
    async with open_door([model()], limits=LIMITS) as door:

        async def pieces() -> Any:
            for _ in range(0, size, 50):
                yield b"x" * min(50, size)
            yield b"x" * (size % 50)

        for _ in range(2):  # the connection serves the next request as well
            response = await door.client.post("/v1/chat/completions", content=pieces() if in_pieces else b"x" * size)
            assert response.status_code == 413
            assert error_of(response)["message"].startswith("The request's body is larger than 1000 bytes")


async def test_a_body_far_too_large_is_not_even_read() -> None:
    async with open_door([model()], limits=LIMITS) as door:
        said = await say(door.url, HEAD + b"Content-Length: 4001\r\n\r\nx")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in said


async def test_a_body_of_just_the_limit_is_read() -> None:
    async with FakeEngine([Reply(answer(b"{}"))]) as engine, open_door([model(engine.address)], limits=LIMITS) as door:
        body = json.dumps({"model": "m", "prompt": ""}).encode()
        body = body.replace(b'"prompt": "', b'"prompt": "' + b"x" * (1000 - len(body)))
        response = await door.client.post("/v1/completions", content=body)
        assert response.status_code == 200
        assert engine.requests[0].body == body


async def test_a_client_that_is_too_slow_with_its_body() -> None:
    async with open_door([model()], limits=LIMITS) as door:
        said = await say(door.url, HEAD + b"Content-Length: 5\r\n\r\n{")
        assert said.startswith(b"HTTP/1.1 408 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


async def test_compressed_bodies_are_refused() -> None:
    async with open_door([model()]) as door:
        response = await door.client.post("/v1/completions", content=b"{}", headers={"content-encoding": "gzip"})
        assert response.status_code == 415
        assert error_of(response)["code"] == "unsupported_content_encoding"


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("/v1/chat/completions", b"{", 400, None, None),
        ("/v1/chat/completions", b'{"messages":[{}]}', 400, "model", "missing_required_parameter"),
        ("/v1/chat/completions", b'{"model":"nope","messages":[{}]}', 404, "model", "model_not_found"),
        ("/v1/embeddings", b'{"model":"m"}', 400, "input", "missing_required_parameter"),
        ("/v1/chat/completions", b'{"model":"m","messages":[{}],"n":0}', 400, "n", "integer_out_of_range"),
    ],
)
async def test_requests_that_reach_no_engine(
    path: str, body: bytes, status: int, param: str | None, code: str | None
) -> None:
    async with open_door([model()]) as door:
        response = await door.client.post(path, content=body)
        error = error_of(response)
        assert (response.status_code, error["param"], error["code"]) == (status, param, code)
        assert door.metric("stoker_requests_total", model="", status_class="4xx") == 1
        samples = [sample for family in door.registry.collect() for sample in family.samples]
        assert {sample.labels["model"] for sample in samples} == {""}  # whatever name was asked for


async def test_anthropic_clients_get_errors_that_they_can_read() -> None:
    async with open_door([model()]) as door:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            response = await door.client.post(path, json={"model": "m"})
            assert response.json()["type"] == "error"
            assert error_of(response)["param"] == "messages"
        assert "type" not in (await door.client.post("/v1/completions", json={"model": "m"})).json()


@pytest.mark.parametrize(
    ("state", "code", "retry_after", "should_retry"),
    [
        ("loading", "model_loading", "12", "true"),
        ("pending", "model_loading", "12", "true"),
        ("failed", "model_failed", None, "false"),
        ("stopped", "model_stopped", None, "false"),
    ],
)
async def test_a_model_without_an_engine_says_why(
    state: str, code: str, retry_after: str | None, should_retry: str
) -> None:
    async with open_door([model(state=state, eta_seconds=11.5, worker="w", progress=0.3)]) as door:
        response = await door.chat()
        assert response.status_code == 503
        assert error_of(response)["code"] == code
        assert response.headers.get("retry-after") == retry_after
        assert response.headers["x-should-retry"] == should_retry
        loading = {"state": state, "worker": "w", "progress": 0.3, "eta_seconds": 11.5}
        assert response.json().get("loading") == (loading if code == "model_loading" else None)
        assert door.routes.refreshes == 1
        assert door.metric("stoker_requests_total", model="m", status_class="5xx") == 1


async def test_a_route_table_that_cannot_be_read_delays_nothing_for_long() -> None:
    routes = Routes(model(state="loading"))
    routes.hangs = True
    async with open_door(routes, limits=ProxyLimits(refresh_time=0.01)) as door:
        assert (await door.chat()).status_code == 503
        assert (await door.client.get("/v1/models/other")).status_code == 404
        assert (await door.client.get("/v1/models")).status_code == 200


async def test_a_fault_of_ours_has_the_same_shape() -> None:
    class Broken(Routes):
        def current(self) -> RouteTable:
            raise ZeroDivisionError

    async with open_door(Broken()) as door:
        response = await door.chat()
        assert response.status_code == 500
        assert error_of(response)["code"] == "internal_error"
        assert "Zero" not in response.text


async def test_the_door_stands_beside_others_or_is_mounted() -> None:
    async def others(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"others"})

    async with open_door([model()]) as door:
        headers = {"authorization": f"Bearer {KEY}"}
        async with serving(beside(door.app, others)) as url, httpx.AsyncClient(headers=headers) as client:
            for path, status in (("/v1/models", 200), ("/v1", 404), ("/v1/x", 404), ("/", 299), ("/v1x", 299)):
                assert (await client.get(url + path)).status_code == status

        async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
            await door.app(scope | {"root_path": "/prefix/v1", "path": "/prefix" + scope["path"]}, receive, send)  # type: ignore[operator]

        async with serving(mounted) as url, httpx.AsyncClient(headers=headers) as client:
            for path, status in (("/v1/models", 200), ("/v1/models/m", 200), ("/v1/v1/models", 404)):
                assert (await client.get(url + path)).status_code == status
