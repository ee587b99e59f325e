"""Streams of /v1/responses, against the types that OpenAI publishes."""

import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from api.openai.endpoints import ENDPOINTS
from api.openai.sse import stream_shape
from api.openai.validation import parse_request
from tests.api.openai.recordings import recorded_body

PUBLISHED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RESPONSES = ENDPOINTS["/responses"]


def shape(**fields: Any) -> Any:
    return stream_shape(RESPONSES, parse_request(RESPONSES, json.dumps({"model": "m", "input": "i"} | fields).encode()))


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Every event; its name and its type say the same, and it is of the published type, strictly."""
    found = []
    for event in stream.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = event.split(b"\n")
        found.append(json.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
        PUBLISHED.validate_json(data.removeprefix(b"data: "), strict=True)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def told(*events: dict[str, Any]) -> bytes:
    """Events as llama-server writes them."""
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event, separators=(",", ":")).encode())
        for event in events
    )


BEGUN = [
    {"type": f"response.{name}", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}}
    for name in ("created", "in_progress")
]
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "arguments": '{"city":"Rome"}',
    "call_id": "call_1",
    "name": "get_weather",
}


def ended(*output: dict[str, Any], output_tokens: int = 3) -> dict[str, Any]:
    return {
        "type": "response.completed",
        "response": {
            "id": "resp_1",
            "object": "response",
            "created_at": 5,
            "status": "completed",
            "model": "m",
            "output": list(output),
            "usage": {
                "input_tokens": 4,
                "output_tokens": output_tokens,
                "total_tokens": 4 + output_tokens,
                "input_tokens_details": {"cached_tokens": 1},
            },
        },
    }


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_stream_of_the_engine_becomes_one_of_the_published_types(size: int) -> None:
    whole = recorded_body("responses_stream")
    blocks = [event + b"\n\n" for event in whole.split(b"\n\n")[:-1]]
    put = shape(temperature=0.5)
    cut = [whole] if not size else [b"".join(blocks[at : at + size]) for at in range(0, len(blocks), size)]
    found = events_of(b"".join(map(put, cut)))
    assert [event["type"] for event in found] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event["delta"] for event in found if "delta" in event) == "Kalim"
    assert found[0]["response"]["temperature"] == found[-1]["response"]["temperature"] == 0.5
    assert found[0]["response"]["created_at"] == found[-1]["response"]["created_at"]
    assert found[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}


def test_a_call_that_is_told_in_pieces() -> None:
    item = CALL | {"arguments": "", "status": "in_progress"}
    delta = {"type": "response.function_call_arguments.delta", "item_id": "fc_1"}
    found = events_of(
        shape()(
            told(
                *BEGUN,
                {"type": "response.output_item.added", "item": item},
                delta | {"delta": '{"city":'},
                delta | {"delta": '"Rome"}'},
                {"type": "response.output_item.done", "item": CALL},
                ended(CALL),
            )
        )
    )
    assert [event["type"].removeprefix("response.") for event in found[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert found[5]["arguments"] == CALL["arguments"]
    assert all(event["output_index"] == 0 for event in found[2:-1])


def test_a_call_that_is_understood_only_at_the_end() -> None:
    found = events_of(shape()(told(*BEGUN, {"type": "response.output_item.done", "item": CALL}, ended(CALL))))
    assert [event["type"].removeprefix("response.") for event in found[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert found[2]["item"]["arguments"] == ""
    assert found[3]["delta"] == CALL["arguments"]


def test_an_answer_that_nothing_went_before() -> None:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Hé"}
    item = {"type": "message", "status": "completed", "id": "msg_1", "content": [part], "role": "assistant"}
    found = events_of(
        shape()(
            told(
                *BEGUN,
                {"type": "response.output_text.done", "item_id": "msg_1", "text": "Hé"},
                {"type": "response.content_part.done", "item_id": "msg_1", "part": part},
                {"type": "response.output_item.done", "item": item},
                ended(item),
            )
        )
    )
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert found[4]["delta"] == "Hé"


def test_the_rest_of_a_text_that_no_delta_told() -> None:
    item = {"content": [], "id": "msg_1", "role": "assistant", "status": "in_progress", "type": "message"}
    delta = {"type": "response.output_text.delta", "item_id": "msg_1"}
    put = shape()
    sent = put(
        told(
            *BEGUN,
            {"type": "response.output_item.added", "item": item},
            {
                "type": "response.content_part.added",
                "item_id": "msg_1",
                "part": {"type": "output_text", "text": ""},
            },
            delta | {"delta": 'a "quoted"\n'},
        )
    )
    sent += put(told(delta | {"delta": "é"}))
    sent += put(told({"type": "response.output_text.done", "item_id": "msg_1", "text": 'a "quoted"\né and more'}))
    found = events_of(sent)
    assert [event["delta"] for event in found if "delta" in event] == ['a "quoted"\n', "é", " and more"]


def test_reasoning_comes_before_the_answer_that_it_led_to() -> None:
    reasoning = {
        "id": "rs_1",
        "summary": [],
        "type": "reasoning",
        "content": [{"type": "reasoning_text", "text": "hm well"}],
        "encrypted_content": "",
    }
    begun = reasoning | {"content": [], "status": "in_progress"}
    found = events_of(
        shape()(
            told(
                *BEGUN,
                {"type": "response.output_item.added", "item": begun},
                {"type": "response.reasoning_text.delta", "item_id": "rs_1", "delta": "hm"},
                {"type": "response.output_item.done", "item": CALL},
                {"type": "response.output_item.done", "item": reasoning},
                ended(CALL, reasoning),
            )
        )
    )
    last = found[-1]["response"]["output"]
    assert [item["type"] for item in last] == ["reasoning", "function_call"], "as their indices say"
    done = next(event for event in found if event["type"] == "response.reasoning_text.done")
    assert (done["text"], done["output_index"], done["content_index"]) == ("hm well", 0, 0)


def test_a_stream_that_was_cut_says_so() -> None:
    found = events_of(shape(max_output_tokens=3)(told(*BEGUN, ended())))
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_comments_pass() -> None:
    assert shape()(b":\n\n") == b":\n\n"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_item.added"},
        {"type": "response.output_item.done", "item": {"id": "x"}},
        {"type": "response.output_item.done", "item": "x"},
        {"type": "response.completed", "response": 5},
        {"type": "response.created", "response": []},
        {"type": "response.output_text.delta", "item_id": "x", "delta": 5},
    ],
)
def test_an_event_that_lacks_something_is_an_error_of_the_engine(event: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an event of the response lacks something"):
        shape()(told(event))
