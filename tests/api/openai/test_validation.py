"""What is read of a request, and what is refused before an engine sees it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.endpoints import ENDPOINTS
from api.openai.errors import APIError
from api.openai.prefix import prefix_of
from api.openai.validation import MAX_VALUES, EngineRequest, parse_request

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
        ({"n": 3}, EngineRequest("m", choices=3, answers=3, assembled=True)),
        ({"n_cmpl": 2.0}, EngineRequest("m", choices=2, answers=2, assembled=True)),
        ({"n": None}, EngineRequest("m")),
        ({"max_tokens": 5}, EngineRequest("m", max_output=5)),
        ({"max_tokens": 5, "n": 2}, EngineRequest("m", choices=2, answers=2, max_output=5, assembled=True)),
        ({"max_tokens": 5, "max_completion_tokens": 7.0}, EngineRequest("m", max_output=7)),
        ({"max_tokens": -1, "n_predict": 3}, EngineRequest("m", max_output=3)),
        ({"max_tokens": -1}, EngineRequest("m")),
        ({"n_probs": 3}, EngineRequest("m", logprobs=True)),
        ({"logprobs": False}, EngineRequest("m")),
        ({"max_tokens": None}, EngineRequest("m")),
    ],
)
def test_what_routing_needs(fields: dict[str, Any], expected: EngineRequest) -> None:
    assert replace(parsed(**fields), prompt_size=0, prefix=0, body=b"") == expected


def test_how_large_it_is_and_how_it_begins() -> None:
    body = json.dumps({"model": "m", "messages": MESSAGES, "temperature": 1}).encode()
    found = parse_request(CHAT, body)
    assert found.prompt_size == len(body)
    assert found.body is body, "most requests go on byte for byte"
    assert (found.content_type, found.echoed) == (b"application/json", None)
    assert found.prefix == prefix_of({"messages": MESSAGES}) != 0
    embedding = b'{"model": "m", "input": "hi"}'
    unwritten = parse_request(ENDPOINTS["/embeddings"], embedding)
    assert (unwritten.prefix, unwritten.max_output) == (0, 0)


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
        {"response_format": {"type": "json_object", "schema": {"the": ["engine", "says"]}}, "grammar": "x"},
    ],
)
def test_what_is_in_range_or_not_ours_to_judge_passes(fields: dict[str, Any]) -> None:
    parsed(**fields)


WHOLE: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": MESSAGES},
    "/completions": {"prompt": "p"},
    "/embeddings": {"input": "i"},
    "/rerank": {"query": "q", "documents": ["d"]},
    "/responses": {"input": "i"},
    "/messages": {"messages": MESSAGES},
    "/messages/count_tokens": {"messages": MESSAGES},
}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, body in WHOLE.items() for name in body])
def test_each_route_names_the_field_that_it_needs(path: str, name: str) -> None:
    body = {"model": "m"} | WHOLE[path]
    parse_request(ENDPOINTS[path], json.dumps(body).encode())
    del body[name]
    error = refused(json.dumps(body).encode(), path)
    assert (error.param, error.code) == (name, "missing_required_parameter")


def test_all_routes_are_tried_here_but_the_one_that_takes_a_form() -> None:
    assert {path for path, endpoint in ENDPOINTS.items() if not endpoint.takes_form} == set(WHOLE)


def nested(depth: int) -> Any:
    """Arrays in one another, so that the whole body has `depth` of them and objects."""
    inner: Any = "x"
    for _ in range(depth - 1):
        inner = [inner]
    return inner


@pytest.mark.parametrize(("depth", "taken"), [(2, True), (64, True), (65, False), (900, False)])
def test_how_deep_a_body_may_be_nested(depth: int, taken: bool) -> None:
    body = {"model": "m", "messages": MESSAGES, "metadata": nested(depth)}
    if taken:
        parsed(**body)
    else:
        assert "nested too deeply: more than 64" in refused(json.dumps(body).encode()).message


def test_many_brackets_side_by_side_are_not_deep() -> None:
    parsed(messages=MESSAGES * 500)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": MESSAGES * 4097}, "messages", "array_above_max_length"),
        ({"stop": ["x"] * 65}, "stop", "array_above_max_length"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "array_above_max_length"),
        ({"messages": [{"role": "user", "content": "x" * (10 * 2**20 + 1)}]}, "messages", "string_above_max_length"),
    ],
)
def test_how_much_there_may_be(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused_field(**fields)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    ("prompt", "n", "answers"),
    [
        ("a", 3, 3),
        ([1, 2, 3], 2, 2),
        (["a", "b"], 1, 2),
        (["a", [1, 2], "c"], 4, 12),
        (["a"], 1, 1),
        (["a"] * 16, 128, 2048),
        (["a"] * 17, 121, None),
        (["a"] * 2048, 2, None),
    ],
)
def test_answers_to_all_prompts_count(prompt: Any, n: int, answers: int | None) -> None:
    body = json.dumps({"model": "m", "prompt": prompt, "n": n}).encode()
    if answers is None:
        assert refused(body, "/completions").param == "n"
    else:
        assert parse_request(ENDPOINTS["/completions"], body).answers == answers


def test_what_writes_nothing_has_one_answer() -> None:
    body = json.dumps({"model": "m", "input": ["a"] * 2048}).encode()
    assert parse_request(ENDPOINTS["/embeddings"], body).answers == 1


@pytest.mark.parametrize("values", ["[],", "{},", "1,", '"",'])
def test_very_many_values_are_refused_before_they_are_made(values: str) -> None:
    content = values * (MAX_VALUES + 1)
    error = refused(f'{{"model": "m", "messages": [{{"role": "user", "content": [{content}0]}}]}}'.encode())
    assert error.message == "The body holds more than 500000 values."


@pytest.mark.parametrize("text", ["[],", 'a\\"b,', "\\\\,"])
def test_marks_in_a_text_are_no_values(text: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text * MAX_VALUES}]}).encode()
    assert parse_request(CHAT, body).prompt_size == len(body)


@pytest.mark.parametrize("end", [b"", b"\\"])
def test_a_text_that_does_not_end_is_looked_at_once(end: bytes) -> None:
    """From each of its quotes it would be a million times: this test would not end."""
    assert "not valid JSON" in refused(b'{"model": "' + b'\\",' * 1_000_000 + end).message


def test_pictures_count_neither_as_text_nor_as_prompt() -> None:
    picture = "data:image/png;base64," + "A" * (11 * 2**20)
    small = parsed(**content({"type": "image_url", "image_url": {"url": picture}}))
    assert small.prompt_size < 300


@pytest.mark.parametrize(
    ("path", "name", "value", "reason"),
    [
        ("/completions", "prompt", {"prompt_string": "x"}, "a string or a non-empty array, not an object"),
        ("/completions", "prompt", [{"prompt_string": "x", "multimodal_data": []}], "not an object"),
        ("/completions", "prompt", [], "a non-empty array, not an empty array"),
        ("/completions", "prompt", [[1, "x"]], "an array of tokens, whole numbers from 0, not the string 'x'"),
        ("/completions", "prompt", [1, 2.5], "not 2.5"),
        ("/completions", "prompt", [-1], "not -1"),
        ("/completions", "prompt", ["x", 1], "a string or an array of tokens, not 1"),
        ("/embeddings", "input", {"content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}, "an object"),
        ("/embeddings", "input", [{"content": "x"}], "not an object"),
        ("/embeddings", "input", ["x"] * 2049, "2049 entries, and may have 2048"),
        ("/rerank", "documents", ["x"] * 2049, "2049 entries, and may have 2048"),
        ("/responses", "input", 5, "a string or an array, not 5"),
        ("/responses", "text", "x", "an object, not the string"),
    ],
)
def test_prompts_are_text_or_tokens(path: str, name: str, value: Any, reason: str) -> None:
    error = refused(json.dumps({"model": "m"} | WHOLE[path] | {name: value}).encode(), path)
    assert (error.param or "").startswith(name)
    assert reason in error.message


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/completions", "prompt", ["x", "y"]),
        ("/completions", "prompt", [1, 2, 3]),
        ("/completions", "prompt", [[1], [2, 3]]),
        ("/completions", "prompt", ["x", [2, 3]]),
        ("/completions", "prompt", ""),
        ("/embeddings", "input", ["x"] * 2048),
        ("/responses", "input", []),
    ],
)
def test_what_prompts_may_be(path: str, name: str, value: Any) -> None:
    parse_request(ENDPOINTS[path], json.dumps({"model": "m"} | WHOLE[path] | {name: value}).encode())


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
    body = wrap(url)
    path = "/responses" if "input" in body else "/chat/completions"
    error = refused(json.dumps({"model": "m"} | body).encode(), path)
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


NAMED = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "seed",
    "input",
    "tools",
    "tool_choice",
    "text",
    "prompt",
]


@given(st.dictionaries(st.sampled_from(NAMED), JSON))
def test_whatever_is_sent_it_is_understood_or_refused(body: dict[str, Any]) -> None:
    for endpoint in ENDPOINTS.values():
        fields = {name: value for name, value in body.items() if name in endpoint.fields}
        try:
            outcome: EngineRequest | APIError = parse_request(endpoint, json.dumps(fields).encode())
        except APIError as error:
            outcome = error
        if isinstance(outcome, APIError):
            assert outcome.status == 400
        else:
            assert outcome.model == fields["model"]
            assert json.loads(outcome.body)["model"] == fields["model"]


@given(st.binary(max_size=200))
def test_whatever_bytes_are_sent_the_answer_is_400(body: bytes) -> None:
    assert refused(body).status == 400
