"""What goes through the proxy, and what is counted of it."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from api.openai.endpoints import ENDPOINTS
from api.openai.proxy import ProxyLimits
from tests.api.openai.cluster import OK, STREAM, cluster, error_of, is_at_rest, stream_of
from tests.api.openai.recordings import recorded, recorded_body
from tests.api.openai.serving import until
from tests.fakes.engine import (
    DONE,
    SCENARIOS,
    STREAM_END,
    STREAM_HEAD,
    Close,
    Gate,
    Script,
    Send,
    answer,
    chunk,
    delta,
)

pytestmark = pytest.mark.anyio


async def test_a_request_and_its_answer_go_through_untouched() -> None:
    async with cluster([Send(recorded("chat"))]) as (door, [engine]):
        body = b'{ "model" : "m",\n"messages":[{"role":"user","content":"h\\u00e9"}], "seed": 1.50e1 }'
        headers = {
            "x-request-id": "r-1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cookie": "secret",
            "user-agent": "who",
        }
        response = await door.client.post("/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 200
        assert response.content == recorded_body("chat").replace(
            b'"index":0,"message":{', b'"index":0,"logprobs":null,"message":{"refusal":null,'
        ), "but for what OpenAI's schema wants besides"
        assert response.headers["x-request-id"] == "r-1"
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        assert "llama.cpp" not in response.headers.get("server", "")
        (request,) = engine.requests
        assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions", body)
        assert request.headers == {
            "host": f"127.0.0.1:{engine.address[1]}",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "authorization": "Bearer engine-key-0",
            "x-request-id": "r-1",
            "traceparent": headers["traceparent"],
        }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/completions", "completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "count_tokens"),
    ],
)
async def test_every_route_of_the_engine_is_passed_on(path: str, name: str) -> None:
    async with cluster([Send(recorded(name))]) as (door, [engine]):
        needed = {"prompt": "p", "input": "i", "messages": [{"role": "user", "content": "hi"}]}
        [field] = ENDPOINTS[path.removeprefix("/v1")].required
        response = await door.client.post(path, json={"model": "m", field: needed[field]})
        assert (response.status_code, response.content) == (200, recorded_body(name))
        assert engine.requests[0].path == path


async def test_a_form_goes_on_as_it_came() -> None:
    reply = (
        b'{"type":"transcript.text.done","text":"hello","usage":{"type":"tokens","input_tokens":5,"output_tokens":2}}'
    )
    async with cluster([Send(answer(reply))]) as (door, [engine]):
        response = await door.client.post(
            "/v1/audio/transcriptions", data={"model": "m"}, files={"file": ("a.wav", b"RIFF\r\n--x", "audio/wav")}
        )
        assert (response.status_code, response.content) == (200, reply)
        (request,) = engine.requests
        assert request.path == "/v1/audio/transcriptions"
        assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b"RIFF\r\n--x\r\n" in request.body


async def test_a_request_goes_on_in_the_engines_words() -> None:
    async with cluster([Send(recorded("chat"))]) as (door, [engine]):
        tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
        await door.chat(tools=tools, tool_choice={"type": "function", "function": {"name": "g"}})
        sent = json.loads(engine.requests[0].body)
        assert (sent["tool_choice"], sent["tools"]) == ("required", tools[1:])


@pytest.mark.parametrize("every", [0, 1, 7])
async def test_a_stream_goes_through_however_it_was_cut(every: int) -> None:
    async with cluster([Send(recorded("chat_stream"), every)]) as (door, [engine]):
        response, body = await stream_of(door)
        assert body == recorded_body("chat_stream")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        await until(lambda: is_at_rest(door, engine))
        await stream_of(door)
        assert engine.connections == 1  # the connection is used again after a stream


async def test_an_anthropic_stream_goes_through() -> None:
    async with cluster([Send(recorded("messages_stream"))]) as (door, _):
        _, body = await stream_of(door, "/v1/messages")
        assert body == recorded_body("messages_stream")


async def test_response_objects_are_completed() -> None:
    async with cluster([Send(recorded("responses"))]) as (door, _):
        whole = (await door.client.post("/v1/responses", json={"model": "m", "input": "i", "temperature": 0.5})).json()
        assert (whole["status"], whole["temperature"], whole["tools"]) == ("completed", 0.5, [])
    async with cluster([Send(recorded("responses_stream"))]) as (door, _):
        _, body = await stream_of(door, "/v1/responses")
        assert b'"sequence_number":0' in body
        assert body.count(b"event: response.completed\n") == 1


async def test_an_event_of_a_response_that_lacks_something_ends_the_stream_with_an_error() -> None:
    script: Script = [
        Send(STREAM_HEAD + chunk(b'event: x\ndata: {"type":"response.output_item.added"}\n\n') + STREAM_END)
    ]
    async with cluster(script, script) as (door, _):
        _, body = await stream_of(door, "/v1/responses")
        assert error_of(body)["code"] == "engine_failed"


@pytest.mark.parametrize(
    "events", [[b": ping\n\n", delta("hi"), DONE], [b": ping\n\n", delta("hi") + DONE]], ids=["apart", "together"]
)
async def test_the_first_token_is_no_comment(events: list[bytes]) -> None:
    gate = Gate()
    script: Script = [
        Send(STREAM_HEAD + chunk(events[0])),
        gate,
        *(Send(chunk(event)) for event in events[1:]),
        Send(STREAM_END),
    ]
    async with cluster(script) as (door, [engine]):
        body = {"model": "m", "messages": [{}], "stream": True}
        async with door.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b": ping\n\n", "it keeps the connection alive"
            assert door.metric("stoker_time_to_first_token_seconds_count", model="m") == 0
            gate.event.set()
            assert b"".join([piece async for piece in pieces]) == delta("hi") + DONE
        await until(lambda: is_at_rest(door, engine))
        assert door.metric("stoker_time_to_first_token_seconds_count", model="m") == 1


async def test_a_comment_before_the_first_event_hides_no_tokens() -> None:
    begun = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n'
    piece = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"hi"}}\n\n'
    said = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":3}}\n\n'
    end = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    gates = [Gate() for _ in range(5)]  # so that each comes by itself
    events = [b": ping\n\n", begun, piece, piece, piece, said + end]
    script: Script = [Send(STREAM_HEAD + chunk(events[0]))]
    for gate, event in zip(gates, events[1:], strict=True):
        script += [gate, Send(chunk(event))]
    async with cluster([*script, Send(STREAM_END)]) as (door, [engine]):
        body = {"model": "m", "messages": [{"role": "user"}], "max_tokens": 9, "stream": True}
        async with door.client.stream("POST", "/v1/messages", json=body) as response:
            pieces = response.aiter_raw()
            for gate in gates:
                await anext(pieces)
                gate.event.set()
            assert b"".join([piece async for piece in pieces]) == events[-1]
        await until(lambda: is_at_rest(door, engine))
        assert door.metric("stoker_tokens_total", model="m", direction="in") == 7
        assert door.metric("stoker_tokens_total", model="m", direction="out") == 3


async def test_usage_in_streams_is_shaped_on_the_way() -> None:
    async with cluster([Send(recorded("completion_stream_usage"))]) as (door, _):
        _, without = await stream_of(door, "/v1/completions")
        _, with_usage = await stream_of(door, "/v1/completions", stream_options={"include_usage": True})
        assert b'"usage"' not in without
        assert with_usage.count(b'"usage":null') == without.count(b'"choices":[{')
        assert b'"choices":[],' in with_usage
        assert with_usage.endswith(b"data: [DONE]\n\n")


async def test_events_reach_the_client_as_they_come() -> None:
    gate = Gate()
    script: Script = [Send(STREAM_HEAD + chunk(delta("one"))), gate, Send(chunk(delta("two") + DONE) + STREAM_END)]
    async with cluster(script) as (door, _):
        body = {"model": "m", "messages": [{}], "stream": True}
        async with door.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == delta("one")
            gate.event.set()
            assert b"".join([piece async for piece in pieces]) == delta("two") + DONE


async def test_an_answer_larger_than_what_is_held_goes_through_too() -> None:
    content = b'{"data":"' + b"x" * 300_000 + b'","usage":{"prompt_tokens":7,"total_tokens":7}}'
    chunked = STREAM_HEAD.replace(b"text/event-stream", b"application/json") + chunk(content) + STREAM_END
    for script in ([Send(answer(content))], [Send(chunked)]):
        async with cluster(list(script), limits=ProxyLimits(held_answer_size=100_000)) as (door, engines):
            response = await door.chat()
            assert response.content == content
            await until(lambda: is_at_rest(door, *engines))
            assert door.metric("stoker_tokens_total", model="m", direction="in") == 7


# --- metering ---


async def test_what_a_request_used_is_counted() -> None:
    async with cluster([Send(recorded("chat"))]) as (door, engines):
        await door.chat()
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="2xx") == 1
        assert door.metric("stoker_tokens_total", model="m", direction="in") == 32
        assert door.metric("stoker_tokens_total", model="m", direction="out") == 3
        assert door.metric("stoker_request_duration_seconds_count", model="m") == 1
        assert door.metric("stoker_time_to_first_token_seconds_count", model="m") == 0


@pytest.mark.parametrize(
    ("name", "path", "fields", "tokens"),
    [
        ("chat_stream", "/v1/chat/completions", {}, (32, 3)),
        ("chat_stream_usage", "/v1/chat/completions", {"stream_options": {"include_usage": True}}, (32, 3)),
        ("chat_stream_usage_two_choices", "/v1/chat/completions", {"n": 2}, (32, 6)),
        ("completion_stream", "/v1/completions", {}, (2, 3)),
        ("completion_stream_two_prompts", "/v1/completions", {"prompt": ["a", "b"]}, (3, 6)),
        ("messages_stream", "/v1/messages", {}, (32, 3)),
        ("responses_stream", "/v1/responses", {}, (32, 3)),
    ],
)
async def test_what_a_stream_used_is_counted(
    name: str, path: str, fields: dict[str, Any], tokens: tuple[int, int]
) -> None:
    async with cluster([Send(recorded(name), every=50)]) as (door, engines):
        await stream_of(door, path, **fields)
        await until(lambda: is_at_rest(door, *engines))
        counted = [door.metric("stoker_tokens_total", model="m", direction=way) for way in ("in", "out")]
        assert tuple(counted) == tokens
        assert door.metric("stoker_time_to_first_token_seconds_count", model="m") == 1


# --- load ---


async def test_requests_go_where_there_is_least_work() -> None:
    gates = [Gate(), Gate()]
    async with cluster([gates[0], *OK], [gates[1], *OK]) as (door, engines):
        asking = [asyncio.create_task(door.chat()) for _ in range(6)]
        for engine in engines:
            await engine.until(lambda engine: len(engine.requests) == 3)
        assert door.metric("stoker_requests_running", model="m") == 6
        for gate in gates:
            gate.event.set()
        assert {response.status_code for response in await asyncio.gather(*asking)} == {200}
        await until(lambda: is_at_rest(door, *engines))


async def test_many_requests_of_every_outcome_leave_nothing_behind() -> None:
    scripts: list[Script] = [
        OK,
        STREAM,
        SCENARIOS["error"],
        [Close()],
        SCENARIOS["garbage"],
        SCENARIOS["die-mid-stream"],
    ]
    async with cluster(*scripts) as (door, engines):

        async def ask(index: int) -> None:
            try:
                async with asyncio.timeout(0.02 if index % 5 == 0 else 20):
                    await door.chat(stream=bool(index % 2))
            except (TimeoutError, httpx.HTTPError):
                pass

        await asyncio.gather(*(ask(index) for index in range(120)))
        await until(lambda: is_at_rest(door, *engines))
        total = sum(
            door.metric("stoker_requests_total", model="m", status_class=outcome) or 0
            for outcome in ("2xx", "4xx", "5xx", "gone")
        )
        assert total == door.metric("stoker_request_duration_seconds_count", model="m")
