"""Whole answers, against the types that OpenAI publishes: no field missing, none of another type."""

import json
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from api.openai.answers import whole_answer
from api.openai.endpoints import ENDPOINTS
from api.openai.validation import EngineRequest, parse_request
from tests.api.openai.recordings import recorded_body

MESSAGES = [{"role": "user", "content": "hi"}]
TYPES: dict[str, tuple[str, type[BaseModel]]] = {
    "chat": ("/chat/completions", ChatCompletion),
    "completion": ("/completions", Completion),
    "embeddings": ("/embeddings", CreateEmbeddingResponse),
    "responses": ("/responses", Response),
}


def asked(path: str, **fields: Any) -> EngineRequest:
    needed = {"messages": MESSAGES, "prompt": "p", "input": "i"}
    [name] = ENDPOINTS[path].required
    return parse_request(ENDPOINTS[path], json.dumps({"model": "m", name: needed[name]} | fields).encode())


def answered(path: str, body: bytes, **fields: Any) -> Any:
    return json.loads(whole_answer(ENDPOINTS[path], asked(path, **fields), body))


@pytest.mark.parametrize("name", TYPES)
def test_an_answer_of_the_engine_is_of_the_published_type(name: str) -> None:
    path, published = TYPES[name]
    published.model_validate_json(whole_answer(ENDPOINTS[path], asked(path), recorded_body(name)), strict=True)


def test_a_chats_nulls_are_there() -> None:
    answer = answered("/chat/completions", recorded_body("chat"))
    [choice] = answer["choices"]
    assert (choice["logprobs"], choice["message"]["refusal"]) == (None, None)
    assert answer | {"choices": 0} == json.loads(recorded_body("chat")) | {"choices": 0}, "and nothing else has changed"


TOKEN = {"id": 5, "token": "Hi", "bytes": [72, 105], "logprob": -0.5}
TOKENS = [TOKEN | {"top_logprobs": [TOKEN]}, TOKEN | {"token": " you", "top_logprobs": [TOKEN, TOKEN | {"token": "x"}]}]


def test_a_chats_log_probabilities_are_of_the_published_type() -> None:
    choice = {"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": "Hi you"}}
    body = json.loads(recorded_body("chat")) | {"choices": [choice | {"logprobs": {"content": TOKENS}}]}
    answer = whole_answer(
        ENDPOINTS["/chat/completions"],
        asked("/chat/completions", logprobs=True),
        json.dumps(body, separators=(",", ":")).encode(),
    )
    found = ChatCompletion.model_validate_json(answer, strict=True).choices[0]
    assert found.logprobs is not None
    assert found.logprobs.content is not None
    assert [token.token for token in found.logprobs.content] == ["Hi", " you"]
    assert json.loads(answer)["choices"][0]["logprobs"]["refusal"] is None
    assert answer.count(b'"logprobs"') == 1


def test_log_probabilities_of_text_have_the_shape_of_text() -> None:
    choice = {"text": "Hi you", "index": 0, "logprobs": {"content": TOKENS}, "finish_reason": "length"}
    body = json.dumps(json.loads(recorded_body("completion")) | {"choices": [choice]}).encode()
    answer = answered("/completions", body, logprobs=2)
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["Hi", " you"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Hi": -0.5}, {"Hi": -0.5, "x": -0.5}],
        "text_offset": [0, 2],
    }
    Completion.model_validate_json(json.dumps(answer), strict=True)


def test_text_without_log_probabilities_passes_as_it_came() -> None:
    body = recorded_body("completion")
    for fields in ({}, {"logprobs": 0}, {"logprobs": 2}):
        assert json.loads(whole_answer(ENDPOINTS["/completions"], asked("/completions", **fields), body)) == json.loads(
            body
        )


def test_a_stop_sequence_is_told_in_anthropics_words() -> None:
    body = recorded_body("messages")
    assert whole_answer(ENDPOINTS["/messages"], asked("/messages"), body) == body
    stopped = body.replace(
        b'"stop_reason":"max_tokens","stop_sequence":null', b'"stop_reason":"end_turn","stop_sequence":"e"'
    )
    assert stopped != body
    answer = answered("/messages", stopped)
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "e")


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def test_a_response_repeats_its_request() -> None:
    answer = answered(
        "/responses",
        recorded_body("responses"),
        instructions="Be brief.",
        temperature=0.5,
        tools=[TOOL, {"type": "web_search"}],
        tool_choice={"type": "function", "name": "f"},
        metadata={"a": "b"},
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        user=None,
        max_output_tokens=500,
    )
    assert answer["instructions"] == "Be brief."
    assert answer["temperature"] == 0.5
    assert answer["tools"] == [TOOL | {"strict": True}, {"type": "web_search"}]
    assert answer["tool_choice"] == {"type": "function", "name": "f"}, "as it was asked, not as the engine is told"
    assert answer["metadata"] == {"a": "b"}
    assert answer["reasoning"] == {"effort": "low", "summary": None}
    assert answer["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert (answer["status"], answer["max_output_tokens"]) == ("completed", 500)
    assert "user" not in answer or answer["user"] is None
    Response.model_validate_json(json.dumps(answer), strict=True)


@pytest.mark.parametrize(("limit", "status"), [(3, "incomplete"), (4, "completed"), (None, "completed")])
def test_a_response_that_was_cut_says_so(limit: int | None, status: str) -> None:
    answer = answered("/responses", recorded_body("responses"), max_output_tokens=limit)
    assert answer["usage"]["output_tokens"] == 3
    assert answer["status"] == status
    assert answer["incomplete_details"] == ({"reason": "max_output_tokens"} if status == "incomplete" else None)
    assert ("completed_at" in answer) == (status == "completed")


@pytest.mark.parametrize("path", ["/responses", "/completions", "/chat/completions", "/messages", "/embeddings"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"object":"error"}', b"\xff"])
def test_what_is_no_answer_passes_as_it_came(path: str, body: bytes) -> None:
    request = asked(path, **({"logprobs": 1} if path == "/completions" else {}))
    assert whole_answer(ENDPOINTS[path], request, body) == body
