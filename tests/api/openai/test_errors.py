"""The error shape, and the errors that this door makes itself."""

import json

import pytest

from api.openai import errors
from api.openai.errors import MAX_MESSAGE_CHARACTERS, APIError

ALL = [
    (errors.invalid_request("m", "p", "c"), 400, "c"),
    (errors.unsupported_parameter("m", "p"), 400, "unsupported_parameter"),
    (errors.invalid_api_key(given=True), 401, "invalid_api_key"),
    (errors.invalid_api_key(given=False), 401, "invalid_api_key"),
    (errors.unknown_url("GET", "/v1/x"), 404, "unknown_url"),
    (errors.model_not_found("m"), 404, "model_not_found"),
    (errors.method_not_allowed("PUT", "/v1/x", "GET"), 405, "method_not_allowed"),
    (errors.request_timed_out(60), 408, "request_timeout"),
    (errors.body_too_large(5), 413, "request_too_large"),
    (errors.unsupported_encoding("gzip"), 415, "unsupported_content_encoding"),
    (errors.internal_error(), 500, "internal_error"),
    (errors.engine_failed("m"), 502, "engine_failed"),
    (errors.engine_unreachable("m"), 503, "engine_unreachable"),
    (errors.engine_timed_out("m"), 504, "engine_timeout"),
]


@pytest.mark.parametrize(("error", "status", "code"), ALL)
def test_every_error_has_all_four_keys(error: APIError, status: int, code: str) -> None:
    body = json.loads(error.body())
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (error.status, body["error"]["code"]) == (status, code)
    assert body["error"]["message"]
    assert body["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.mark.parametrize(("error", "status", "code"), ALL)
def test_anthropic_clients_find_their_own_shape_in_it(error: APIError, status: int, code: str) -> None:
    body = json.loads(error.body(anthropic=True))
    assert body["type"] == "error"
    assert body["error"] == json.loads(error.body())["error"]
    assert error.event(named=True) == b"event: error\ndata: " + error.body(anthropic=True) + b"\n\n"
    assert error.event() == b"data: " + error.body() + b"\n\n"


@pytest.mark.parametrize(
    ("seconds", "header"), [(0, b"1"), (0.2, b"1"), (1.5, b"2"), (119.1, b"120"), (120, b"120"), (9000, b"120")]
)
def test_retry_after_is_whole_seconds_that_the_sdks_obey(seconds: float, header: bytes) -> None:
    assert APIError(503, "m", retry_after=seconds).headers == [(b"retry-after", header)]


def test_whether_to_retry_is_said_only_where_it_is_known() -> None:
    assert APIError(500, "m").headers == []
    assert APIError(500, "m", should_retry=True).headers == [(b"x-should-retry", b"true")]
    assert APIError(500, "m", should_retry=False).headers == [(b"x-should-retry", b"false")]
    assert errors.body_too_large(5, close=True).headers == [(b"connection", b"close")]
    assert (b"allow", b"GET") in errors.method_not_allowed("PUT", "/x", "GET").headers


def test_what_stands_beside_does_not_replace_the_error() -> None:
    error = APIError(503, "m", beside={"loading": {"state": "loading"}})
    assert json.loads(error.body())["loading"] == {"state": "loading"}
    assert json.loads(error.body(anthropic=True))["error"]["message"] == "m"


def test_what_somebody_sent_is_repeated_only_in_part() -> None:
    assert len(errors.model_not_found("x" * 10_000).message) < 250
    assert len(json.loads(APIError(400, "x" * 10_000).body())["error"]["message"]) == MAX_MESSAGE_CHARACTERS
    assert errors.shorten("short") == "short"
    assert errors.shorten("x" * 121) == "x" * 119 + "…"
