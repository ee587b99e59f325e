"""Answers in one piece that were streamed by the engine."""

import json
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from api.openai.answers import whole_answer
from api.openai.assembly import Assembly
from api.openai.endpoints import ENDPOINTS
from api.openai.sse import stream_shape
from api.openai.validation import parse_request
from tests.api.openai.cluster import cluster
from tests.api.openai.recordings import recorded, recorded_body
from tests.fakes.engine import DONE, STREAM_END, STREAM_HEAD, Script, Send, chunk

CHAT, TEXT = ENDPOINTS["/chat/completions"], ENDPOINTS["/completions"]
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}
WRITE: dict[str, Any] = {"model": "m", "prompt": ["a", "b"]}


def cut(stream: bytes, size: int) -> list[bytes]:
    events = [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]
    return [b"".join(events[at : at + size]) for at in range(0, len(events), size)]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_chat_of_two_choices(size: int) -> None:
    request = parse_request(CHAT, json.dumps(ASK).encode())
    assert request.assembled
    assert not request.stream
    sent = json.loads(request.body)
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    shape = stream_shape(CHAT, request)
    *before, whole = [shape(block) for block in cut(recorded_body("chat_stream_usage_two_choices"), size)]
    assert set(before) <= {b""}
    answer = ChatCompletion.model_validate_json(whole_answer(CHAT, request, whole), strict=True)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content and choice.finish_reason == "length" for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6, "those of both"
    for choice in json.loads(whole_answer(CHAT, request, whole))["choices"]:
        assert choice.keys() == {"index", "finish_reason", "message", "logprobs"}
        assert choice["message"]["refusal"] is None


def test_texts_of_two_prompts() -> None:
    request = parse_request(TEXT, json.dumps(WRITE).encode())
    assert request.assembled
    whole = stream_shape(TEXT, request)(recorded_body("completion_stream_two_prompts"))
    answer = Completion.model_validate_json(whole_answer(TEXT, request, whole), strict=True)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


@pytest.mark.parametrize(
    "fields",
    [{"n": 1}, {"n": 2, "stream": True}, {}],
)
def test_one_answer_is_asked_for_as_it_is(fields: dict[str, Any]) -> None:
    assert not parse_request(CHAT, json.dumps(ASK | {"n": None} | fields).encode()).assembled
    for prompt in ("a", ["a"], [1, 2], [[1, 2]]):
        body = json.dumps({"model": "m", "prompt": prompt} | fields | {"n": None}).encode()
        assert not parse_request(TEXT, body).assembled


def piece(index: int, delta: dict[str, Any], **more: Any) -> bytes:
    choice = {"finish_reason": None, "index": index, "delta": delta} | more
    return b"data: " + json.dumps({"choices": [choice], "id": "x", "created": 5, "model": "m"}).encode() + b"\n\n"


def call(index: int, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index} | fields]}


def test_calls_and_log_probabilities_are_put_together() -> None:
    token = {"token": "a", "bytes": [97], "logprob": -1.0, "top_logprobs": []}
    whole = Assembly(1)(
        piece(0, {"role": "assistant", "content": None})
        + piece(0, call(0, id="c1", type="function", function={"name": "f"}), logprobs={"content": [token]})
        + piece(0, call(0, function={"arguments": '{"a"'}), logprobs={"content": [token]})
        + piece(0, call(0, function={"arguments": ":1}"}))
        + piece(0, call(1, id="c2", type="function", function={"name": "g", "arguments": "{}"}))
        + piece(0, {}, finish_reason="tool_calls")
        + b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},'
        b'"id":"x","created":5,"model":"m"}\n\ndata: [DONE]\n\n'
    )
    request = parse_request(CHAT, json.dumps(ASK | {"logprobs": True}).encode())
    answer = ChatCompletion.model_validate_json(whole_answer(CHAT, request, whole), strict=True)
    [choice] = answer.choices
    found = [
        (each.id, each.function.name, each.function.arguments)
        for each in choice.message.tool_calls or []
        if each.type == "function"
    ]
    assert found == [("c1", "f", '{"a":1}'), ("c2", "g", "{}")]
    assert choice.logprobs is not None
    assert len(choice.logprobs.content or []) == 2
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "event", [b"data: {\n\n", b"data: 5\n\n", b'data: {"choices":[{}]}\n\n', b'data: {"choices":[5]}\n\n']
)
def test_what_is_no_chunk(event: bytes) -> None:
    with pytest.raises(ValueError, match=r"lacks something|Expecting"):
        Assembly(1)(event)


@pytest.mark.anyio
async def test_the_client_gets_one_piece_and_all_is_counted() -> None:
    async with cluster([Send(recorded("chat_stream_usage_two_choices"))]) as (door, [engine]):
        answer = await door.chat(n=2)
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert len(answer.json()["choices"]) == 2
        await door.until_idle()
        assert door.metric("stoker_tokens_total", model="m", direction="out") == 6
        assert json.loads(engine.requests[0].body)["stream"] is True


@pytest.mark.anyio
async def test_an_engine_that_breaks_off_is_replaced_by_another() -> None:
    begun: Script = [Send(STREAM_HEAD + chunk(piece(0, {"content": "x"})) + chunk(DONE[:5]) + STREAM_END)]
    async with cluster(begun, [Send(recorded("chat_stream_usage_two_choices"))]) as (door, engines):
        answer = await door.chat(n=2)
        assert answer.status_code == 200
        assert [len(engine.requests) for engine in engines] == [1, 1]
