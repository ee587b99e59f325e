"""Streams as clients get them, from streams as the engine was recorded to send them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.endpoints import ENDPOINTS, Endpoint
from api.openai.sse import MAX_EVENT_BYTES, EventCutter, StreamShape, error_at, is_last
from tests.api.openai.recordings import recorded_body

CHAT, COMPLETIONS = ENDPOINTS["/chat/completions"], ENDPOINTS["/completions"]
STREAMS = {
    "chat_stream": CHAT,
    "chat_stream_usage": CHAT,
    "chat_stream_usage_two_choices": CHAT,
    "completion_stream": COMPLETIONS,
    "completion_stream_usage": COMPLETIONS,
    "completion_stream_two_prompts": COMPLETIONS,
    "responses_stream": ENDPOINTS["/responses"],
    "messages_stream": ENDPOINTS["/messages"],
}


def blocks(stream: bytes, *cuts: int) -> list[bytes]:
    """The stream's events, as a cutter hands them out for these pieces."""
    cutter = EventCutter()
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return [events for piece in pieces if (events := cutter.push(piece))]


def shaped(name: str, *, include_usage: bool, choices: int = 1) -> bytes:
    shape = StreamShape(STREAMS[name], include_usage=include_usage, choices=choices)
    return b"".join(shape(events) for events in blocks(recorded_body(name), *event_ends(recorded_body(name))))


def event_ends(stream: bytes) -> list[int]:
    return [index + 2 for index in range(len(stream) - 2) if stream[index : index + 2] == b"\n\n"]


def chunks(stream: bytes) -> list[Any]:
    assert stream.endswith(b"data: [DONE]\n\n")
    events = stream.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[:-1]
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


# --- cutting ---


@pytest.mark.parametrize("name", STREAMS)
def test_events_come_out_whole_wherever_the_stream_was_split(name: str) -> None:
    stream = recorded_body(name)
    for cut in range(1, len(stream)):
        pieces = blocks(stream, cut)
        assert b"".join(pieces) == stream
        assert all(piece.endswith(b"\n\n") for piece in pieces)


@given(st.lists(st.text(alphabet="ab\n", max_size=6)), st.data())
def test_what_is_not_whole_stays_back(texts: list[str], data: st.DataObject) -> None:
    stream = "".join(texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    out = b"".join(blocks(stream, *cuts))
    whole = stream[: stream.rindex(b"\n\n") + 2] if b"\n\n" in stream else b""
    assert stream.startswith(out)
    assert out.rstrip(b"\n") == whole.rstrip(b"\n")  # empty lines after an event may come now or later


def test_an_event_without_end_is_refused() -> None:
    cutter = EventCutter()
    piece = b"x" * 65_536
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        assert cutter.push(piece) == b""
    with pytest.raises(ValueError, match="an event is longer than"):
        cutter.push(b"x")


# --- the end, and errors ---


@pytest.mark.parametrize(("name", "endpoint"), STREAMS.items())
def test_only_the_end_is_the_end(name: str, endpoint: Endpoint) -> None:
    events = blocks(recorded_body(name), *event_ends(recorded_body(name)))
    assert [is_last(block, endpoint) for block in events] == [False] * (len(events) - 1) + [True]


def test_generated_text_is_never_taken_for_an_end_or_an_error() -> None:
    text = 'data: [DONE]\n\n event: message_stop\n data: {"error": {"choices":[{ "usage":{ data: null\n\n'
    event = (
        b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}, separators=(",", ":")).encode() + b"\n\n"
    )
    for endpoint in ENDPOINTS.values():
        assert not is_last(event, endpoint)
        assert error_at(event, endpoint) == -1
        for include_usage in (False, True):
            sent = StreamShape(endpoint, include_usage=include_usage)(event)
            assert json.loads(sent.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == text


def test_where_an_error_begins() -> None:
    before = b'data: {"choices":[]}\n\n'
    assert error_at(before + b'data: {"error":{"code":500}}\n\n', CHAT) == len(before)
    assert error_at(b"event: error\ndata: {}\n\n", ENDPOINTS["/messages"]) == 0
    assert error_at(before, CHAT) == -1


# --- the role ---


@pytest.mark.parametrize(
    ("delta", "sent"),
    [
        ({"content": "x"}, {"role": "assistant", "content": "x"}),  # what the engine sends when it begins with an emoji
        ({"tool_calls": []}, {"role": "assistant", "tool_calls": []}),
        ({}, {"role": "assistant"}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": None}),
    ],
)
def test_the_first_delta_names_the_role(delta: dict[str, Any], sent: dict[str, Any]) -> None:
    event = b"data: " + json.dumps({"choices": [{"delta": delta}]}, separators=(",", ":")).encode() + b"\n\n"
    shape = StreamShape(CHAT, include_usage=False)
    assert shape(b":\n\n") == b":\n\n"
    first = shape(event + event)
    assert json.loads(first.split(b"\n\n")[0].removeprefix(b"data: "))["choices"][0]["delta"] == sent
    assert first.endswith(event)
    assert shape(event) == event


def test_each_choice_has_its_role() -> None:
    def event(index: int, delta: str) -> bytes:
        return b'data: {"choices":[{"finish_reason":null,"index":%d,"delta":{%s}}]}\n\n' % (index, delta.encode())

    shape = StreamShape(CHAT, include_usage=False, choices=2)
    sent = shape(event(0, '"role":"assistant","content":null') + event(0, '"content":"\\"index\\":1"'))
    sent += shape(event(1, '"content":"x"') + event(0, '"content":"y"'))
    sent += shape(event(1, '"content":"z"'))
    deltas = [json.loads(each[6:])["choices"][0] for each in sent.split(b"\n\n")[:-1]]
    assert [(choice["index"], choice["delta"].get("role")) for choice in deltas] == [
        (0, "assistant"),
        (0, None),
        (1, "assistant"),
        (0, None),
        (1, None),
    ]


# --- usage ---


def test_a_chat_that_did_not_ask_for_usage_is_passed_on_byte_for_byte_and_has_none() -> None:
    sent = shaped("chat_stream", include_usage=False)
    assert sent == recorded_body("chat_stream")
    assert all("usage" not in chunk for chunk in chunks(sent))
    assert chunks(sent)[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks(sent)[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("name", "choices", "usage"),
    [
        ("chat_stream_usage", 1, (32, 3, 35)),
        ("chat_stream_usage_two_choices", 2, (32, 6, 38)),
        ("completion_stream_usage", 1, (2, 3, 5)),
        ("completion_stream_two_prompts", 1, (3, 6, 9)),
    ],
)
def test_usage_that_was_asked_for_is_null_in_every_chunk_and_whole_in_one_before_the_end(
    name: str, choices: int, usage: tuple[int, int, int]
) -> None:
    *before, last = chunks(shaped(name, include_usage=True, choices=choices))
    assert [chunk["usage"] for chunk in before] == [None] * len(before)
    assert all(chunk["choices"] for chunk in before)
    assert last["choices"] == []
    assert (
        last["usage"]["prompt_tokens"],
        last["usage"]["completion_tokens"],
        last["usage"]["total_tokens"],
    ) == usage
    assert last["id"] == before[-1]["id"]
    assert last["object"] == before[-1]["object"]
    assert last["model"] == "smollm2"


@pytest.mark.parametrize("name", ["completion_stream", "completion_stream_two_prompts"])
def test_a_completion_that_did_not_ask_for_usage_sees_none_and_keeps_all_else(name: str) -> None:
    sent, came = chunks(shaped(name, include_usage=False)), chunks(recorded_body(name))
    came = [chunk for chunk in came if chunk is not None]  # the engine's event `null`, which no client can read
    for chunk in came:
        chunk.pop("usage", None)
    assert sent == came
    assert sent[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("name", ["responses_stream", "messages_stream"])
def test_other_apis_are_passed_on_byte_for_byte(name: str) -> None:
    for include_usage in (False, True):
        assert shaped(name, include_usage=include_usage) == recorded_body(name)


def test_what_is_no_json_passes_as_it_is() -> None:
    for event in (b'data: "usage":{ what\n\n', b'data: ["usage":{]\n\n', b'data: [{"usage":{}}]\n\n'):
        assert StreamShape(COMPLETIONS, include_usage=False)(event) == event
