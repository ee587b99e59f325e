"""llama-server's errors as the OpenAI API says them; most of them as the engine was recorded to say them."""

import json

import pytest

from api.openai.engine_errors import translate, translate_event
from tests.api.openai.recordings import recorded, recorded_body


@pytest.mark.parametrize(
    ("name", "status", "param", "code", "message"),
    [
        (
            "error_context",
            400,
            "messages",
            "context_length_exceeded",
            "This model's maximum context length is 1024 tokens. However, your messages resulted in 2031 tokens.",
        ),
        ("error_field", 400, "max_tokens", None, "Field 'max_tokens': "),
        ("error_json", 400, None, None, "parse error at line 1"),
        ("error_tools", 400, None, None, "Failed to parse tools"),  # a 500 of the engine's
        ("error_image", 400, None, None, "image input is not supported"),  # likewise
        ("error_unsupported", 400, "model", "model_not_supported", "does not support embeddings"),
        ("error_route", 400, "model", "model_not_supported", "The model 'm' does not offer this route"),
        ("error_key", 502, None, "engine_failed", "The engine refused the proxy's key."),
    ],
)
def test_recorded_errors(name: str, status: int, param: str | None, code: str | None, message: str) -> None:
    engines_status = int(recorded(name).split(b" ")[1])
    error = translate(engines_status, recorded_body(name), model="m")
    assert (error.status, error.param, error.code) == (status, param, code)
    assert message in error.message
    assert error.type == ("server_error" if status == 502 else "invalid_request_error")


@pytest.mark.parametrize(
    ("status", "body", "expected", "message"),
    [
        (500, b'{"error":{"code":500,"message":"Compute error.","type":"server_error"}}', 502, "Compute error."),
        (500, b"", 502, "The engine failed: status 500"),
        (502, b"<html>", 502, "status 502"),
        (500, b"[" * 100_000, 502, "status 500"),
        (500, b'{"error":"just text"}', 502, "just text"),
        (500, b'["list"]', 502, "status 500"),
        (500, b'{"error":{"message":"[json.exception.type_error.302] type must be string"}}', 400, "must be string"),
        (500, b'{"error":{"message":"Unknown reasoning format: x"}}', 400, "Unknown reasoning format"),
        (400, b"", 400, "The engine refused the request with status 400."),
        (422, b'{"error":{"message":"no"}}', 400, "no"),
        (413, b"", 413, "takes no request of this size"),
        (403, b"{}", 502, "refused the proxy's key"),
        (400, b'{"error":{"type":"exceed_context_size_error"}}', 400, "longer than the model's context"),
    ],
)
def test_other_answers(status: int, body: bytes, expected: int, message: str) -> None:
    error = translate(status, body, model="m")
    assert error.status == expected
    assert message in error.message


def test_the_field_of_the_prompt_is_named() -> None:
    error = translate(400, recorded_body("error_context"), model="m", prompt_field="prompt")
    assert (error.param, error.code) == ("prompt", "context_length_exceeded")


def test_an_engines_own_failure_is_not_retried_by_clients() -> None:
    assert (b"x-should-retry", b"false") in translate(500, b"{}", model="m").headers


@pytest.mark.parametrize("name", [b"", b"event: error\n"])
def test_errors_in_mid_stream(name: bytes) -> None:
    engines = {"code": 500, "message": "boom", "type": "server_error"}
    for shape in ({"error": engines}, engines):
        error = translate_event(name + b"data: " + json.dumps(shape).encode() + b"\n\nmore", model="m")
        assert (error.status, error.message) == (502, "The engine failed: boom")
    assert translate_event(name + b'data: {"error":{"code":400,"message":"no"}}\n\n', model="m").status == 400
    assert translate_event(name + b'data: {"error":{"code":9}}\n\n', model="m").status == 502
    assert translate_event(name + b"data: what?\n\n", model="m").status == 502
