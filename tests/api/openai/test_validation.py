"""What is read of a request, and what is refused before an engine sees it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.endpoints import ENDPOINTS
from api.openai.errors import APIError
from api.openai.validation import EngineRequest, parse_request

CHAT = ENDPOINTS["/chat/completions"]
MESSAGES = [{"role": "user", "content": "hi"}]


def parsed(**fields: Any) -> EngineRequest:
    return parse_request(CHAT, json.dumps({"model": "m", "messages": MESSAGES} | fields).encode())


def refused(body: bytes, path: str = "/chat/completions") -> APIError:
    with pytest.raises(APIError) as caught:
        parse_request(ENDPOINTS[path], body)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    return caught.value


def refused_field(**fields: Any) -> APIError:
    return refused(json.dumps({"model": "m", "messages": MESSAGES} | fields).encode())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, EngineRequest("m")),
        ({"model": "org/name:q4"}, EngineRequest("org/name:q4")),
        ({"stream": True}, EngineRequest("m", stream=True)),
        ({"stream": None, "stream_options": None}, EngineRequest("m")),
        ({"stream": True, "stream_options": {}}, EngineRequest("m", stream=True)),
        ({"stream": True, "stream_options": {"include_usage": None}}, EngineRequest("m", stream=True)),
        ({"stream": True, "stream_options": {"include_usage": True}}, EngineRequest("m", True, include_usage=True)),
        ({"n": 3}, EngineRequest("m", choices=3)),
        ({"n_cmpl": 2.0}, EngineRequest("m", choices=2)),
        ({"n": None}, EngineRequest("m")),
    ],
)
def test_what_routing_needs(fields: dict[str, Any], expected: EngineRequest) -> None:
    assert parsed(**fields) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{'model': 1}", "not valid JSON"),
        (b'{"model": "m"} trailing', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ('{"model": "m"}'.encode("utf-16"), "not valid JSON"),
        (b'\xef\xbb\xbf{"model": "m"}', "not valid JSON"),
        (b'{"model": "m", "x": NaN}', "NaN is no JSON number"),
        (b'{"model": "m", "x": -Infinity}', "-Infinity is no JSON number"),
        (b'{"model": "m", "x": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[]", "must be a JSON object, not an empty array"),
        (b'"m"', "must be a JSON object, not the string 'm'"),
        (b"null", "must be a JSON object, not null"),
        (b"1" * 300, "must be a JSON object, not 1111"),
    ],
)
def test_bodies_that_are_no_json_object(body: bytes, reason: str) -> None:
    error = refused(body)
    assert reason in error.message
    assert error.param is None
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("fields", "param", "code", "reason"),
    [
        ({"model": None}, "model", "missing_required_parameter", "Missing required parameter: 'model'"),
        ({"model": ""}, "model", "invalid_type", "a non-empty string, not an empty string"),
        ({"model": 5}, "model", "invalid_type", "a non-empty string, not 5"),
        ({"model": ["m"]}, "model", "invalid_type", "not an array"),
        ({"messages": None}, "messages", "missing_required_parameter", "'messages'"),
        ({"messages": []}, "messages", "invalid_type", "a non-empty array, not an empty array"),
        ({"messages": "hi"}, "messages", "invalid_type", "a non-empty array, not the string 'hi'"),
        ({"stream": "yes"}, "stream", "invalid_type", "a boolean, not the string 'yes'"),
        ({"stream": 1}, "stream", "invalid_type", "a boolean, not 1"),
        ({"stream": True, "stream_options": "x"}, "stream_options", "invalid_type", "an object, not the string 'x'"),
        ({"stream_options": {}}, "stream_options", None, "only allowed when 'stream' is true"),
        (
            {"stream": True, "stream_options": {"include_usage": "x"}},
            "stream_options.include_usage",
            "invalid_type",
            "a boolean",
        ),
        ({"n": 0}, "n", "integer_out_of_range", "Invalid 'n': 0 is not between 1 and 128"),
        ({"n": 129}, "n", "integer_out_of_range", "129 is not between 1 and 128"),
        ({"n": True}, "n", "invalid_type", "an integer, not true"),
        ({"n": 1.5}, "n", "invalid_type", "an integer, not 1.5"),
        ({"n": "2"}, "n", "invalid_type", "an integer, not the string '2'"),
        ({"n_cmpl": 1000}, "n_cmpl", "integer_out_of_range", "1000"),
        ({"max_tokens": 10**400}, "max_tokens", "integer_out_of_range", "is not between -1 and"),
        ({"max_tokens": -2}, "max_tokens", "integer_out_of_range", "-2"),
        ({"temperature": 2.1}, "temperature", "decimal_out_of_range", "2.1 is not between 0 and 2"),
        ({"temperature": -0.1}, "temperature", "decimal_out_of_range", "-0.1"),
        ({"temperature": [1]}, "temperature", "invalid_type", "a number, not an array"),
        ({"top_p": 1.01}, "top_p", "decimal_out_of_range", "1.01"),
        ({"presence_penalty": 3}, "presence_penalty", "decimal_out_of_range", "3"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_out_of_range", "21"),
        ({"id_slot": 0}, "id_slot", "unsupported_parameter", "'id_slot' is not taken here"),
        ({"lora": []}, "lora", "unsupported_parameter", "'lora'"),
        ({"n_discard": -5}, "n_discard", "unsupported_parameter", "'n_discard'"),
    ],
)
def test_fields_that_are_refused(fields: dict[str, Any], param: str, code: str | None, reason: str) -> None:
    error = refused_field(**fields)
    assert (error.param, error.code) == (param, code)
    assert reason in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "max_tokens": -1, "temperature": 0, "top_p": 1, "seed": 2**63 - 1},
        {"n": 128, "max_tokens": 2**31 - 1, "temperature": 2, "top_p": 0.0, "seed": -(2**63)},
        {"n": None, "max_tokens": None, "temperature": None, "top_p": None, "seed": None},
        {"max_tokens": 16.0, "presence_penalty": -2, "frequency_penalty": 2},
        {"whatever": {"the": ["engine", "says"]}, "response_format": {"type": "json_object"}, "grammar": "x"},
    ],
)
def test_what_is_in_range_or_not_ours_to_judge_passes(fields: dict[str, Any]) -> None:
    parsed(**fields)


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, endpoint in ENDPOINTS.items() for name in endpoint.required],
)
def test_each_route_names_the_field_that_it_needs(path: str, name: str) -> None:
    body = {"model": "m", "messages": MESSAGES, "prompt": "p", "input": "i", "query": "q", "documents": ["d"]}
    parse_request(ENDPOINTS[path], json.dumps(body).encode())
    del body[name]
    error = refused(json.dumps(body).encode(), path)
    assert (error.param, error.code) == (name, "missing_required_parameter")


DATA = "data:image/png;base64,iVBORw0KGgo="
REMOTE = [
    "http://10.0.0.1/x.png",
    "https://x/y",
    "HTTP://X",
    "file:///etc/passwd",
    "ftp://x",
    " http://x",
    "httpx",
    "a:b",
]


def content(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "see http://x"}, part]}]}


@pytest.mark.parametrize("url", REMOTE)
@pytest.mark.parametrize(
    ("wrap", "param"),
    [
        (lambda url: content({"type": "image_url", "image_url": {"url": url}}), "messages[0].content[1].image_url.url"),
        (lambda url: content({"type": "image_url", "image_url": url}), "messages[0].content[1].image_url"),
        (lambda url: content({"type": "input_audio", "input_audio": {"data": url}}), None),
        (lambda url: content({"type": "input_audio", "input_audio": {"url": url}}), None),
        (lambda url: content({"type": "input_video", "input_video": {"url": url}}), None),
        (lambda url: content({"type": "video_url", "video_url": {"url": url}}), None),
        (lambda url: content({"type": "image", "source": {"type": "url", "url": url}}), None),
        (
            lambda url: content({"type": "tool_result", "content": [{"type": "image", "source": {"url": url}}]}),
            "messages[0].content[1].content[0].source.url",
        ),
        (lambda url: {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}, None),
        (
            lambda url: {"input": [{"type": "function_call_output", "output": [{"image_url": url}]}]},
            "input[0].output[0].image_url",
        ),
    ],
)
def test_the_engine_is_never_sent_to_fetch_something(url: str, wrap: Any, param: str | None) -> None:
    error = refused_field(**wrap(url))
    assert error.code == "unsupported_url"
    assert "Only data: URLs" in error.message
    assert param is None or error.param == param


def test_an_escaped_name_hides_nothing() -> None:
    body = json.dumps({"model": "m"} | content({"type": "image_url", "image_url": {"url": "http://x"}}))
    assert refused(body.replace("image_url", "image\\u005furl").encode()).code == "unsupported_url"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
        {"type": "input_image", "image_url": DATA},
        {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "tool_use", "name": "fetch", "input": {"url": "https://example.com"}},
        {"type": "text", "text": "look at http://example.com"},
        {"type": "image_url", "image_url": None},
        "text",
        None,
    ],
)
def test_what_is_no_address_passes(part: Any) -> None:
    parsed(**content(part))


NAMES = st.text() | st.sampled_from(["content", "url", "image_url"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["model", "messages", "stream", "stream_options", "n", "seed", "input"]), JSON))
def test_whatever_is_sent_it_is_understood_or_refused(body: dict[str, Any]) -> None:
    for endpoint in ENDPOINTS.values():
        try:
            outcome: EngineRequest | APIError = parse_request(endpoint, json.dumps(body).encode())
        except APIError as error:
            outcome = error
        if isinstance(outcome, APIError):
            assert outcome.status == 400
        else:
            assert outcome.model == body["model"]


@given(st.binary(max_size=200))
def test_whatever_bytes_are_sent_the_answer_is_400(body: bytes) -> None:
    assert refused(body).status == 400
