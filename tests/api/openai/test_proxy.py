"""Requests on their way to engines: which one, what if it fails, and what the client sees of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from api.openai.exchange import Timeouts
from api.openai.proxy import ProxyLimits
from tests.api.openai.recordings import recorded, recorded_body
from tests.api.openai.serving import Door, Routes, model, open_door, until
from tests.fakes.engine import (
    DONE,
    SCENARIOS,
    STREAM_END,
    STREAM_HEAD,
    Close,
    Endless,
    FakeEngine,
    Gate,
    Hang,
    Script,
    Send,
    answer,
    chunk,
    delta,
)

pytestmark = pytest.mark.anyio

OK = SCENARIOS["ok"]
STREAM: Script = [Send(STREAM_HEAD + chunk(delta("hi")) + chunk(DONE) + STREAM_END)]
REFUSING = ("127.0.0.1", 1)  # nobody listens there


@asynccontextmanager
async def cluster(*scripts: Script, limits: ProxyLimits | None = None) -> AsyncIterator[tuple[Door, list[FakeEngine]]]:
    """The door with one model `m`, and an engine for each script."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine(script)) for script in scripts]
        door = await stack.enter_async_context(open_door([model(*(e.address for e in engines))], limits=limits))
        yield door, engines


async def stream_of(door: Door, path: str = "/v1/chat/completions", **fields: Any) -> tuple[httpx.Response, bytes]:
    """A streamed answer, to its end."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi",
        "input": "hi",
        "stream": True,
    }
    async with door.client.stream("POST", path, json=body | fields) as response:
        return response, await response.aread()


def error_of(body: bytes) -> dict[str, Any]:
    """The error in a whole answer or in a stream's last event."""
    last = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    content = json.loads(last.partition(b"data: ")[2] or body)
    assert set(content["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = content["error"]
    return error


def is_at_rest(door: Door, *engines: FakeEngine) -> bool:
    """Whether every count is back at nothing."""
    balancer = door.app._proxy.balancer
    return not door.metric("stoker_requests_running", model="m") and not any(
        balancer.in_flight(engine.address) for engine in engines
    )


# --- what is passed on ---


async def test_a_request_and_its_answer_go_through_untouched() -> None:
    async with cluster([Send(recorded("chat"))]) as (door, [engine]):
        body = b'{ "model" : "m",\n"messages":[{"role":"user","content":"h\\u00e9"}], "unknown": 1.50 }'
        headers = {
            "x-request-id": "r-1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cookie": "secret",
            "user-agent": "who",
        }
        response = await door.client.post("/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 200
        assert response.content == recorded_body("chat")
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
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "count_tokens"),
    ],
)
async def test_every_route_of_the_engine_is_passed_on(path: str, name: str) -> None:
    async with cluster([Send(recorded(name))]) as (door, [engine]):
        body = {"model": "m", "prompt": "p", "input": "i", "messages": [{"role": "user", "content": "hi"}]}
        response = await door.client.post(path, json=body)
        assert (response.status_code, response.content) == (200, recorded_body(name))
        assert engine.requests[0].path == path


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


@pytest.mark.parametrize("name", ["messages_stream", "responses_stream"])
async def test_streams_of_other_apis_go_through(name: str) -> None:
    async with cluster([Send(recorded(name))]) as (door, _):
        _, body = await stream_of(door, "/v1/" + name.removesuffix("_stream"))
        assert body == recorded_body(name)


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


# --- the engine says no ---


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("error_context", 400, "context_length_exceeded"),
        ("error_field", 400, None),
        ("error_tools", 400, None),
        ("error_image", 400, None),
        ("error_unsupported", 400, "model_not_supported"),
    ],
)
async def test_a_request_that_the_engine_refuses_is_refused_once(name: str, status: int, code: str | None) -> None:
    async with cluster([Send(recorded(name)), Close()], [Send(recorded(name)), Close()]) as (door, engines):
        for stream in (False, True):
            response = await door.chat(stream=stream)
            assert response.status_code == status
            assert error_of(response.content)["code"] == code
        assert [len(engine.requests) for engine in engines] == [2, 0]
        assert not door.app._proxy.balancer.is_out(engines[0].address)


async def test_anthropic_clients_get_the_engines_errors_in_their_shape() -> None:
    async with cluster([Send(recorded("error_context"))]) as (door, _):
        response = await door.client.post("/v1/messages", json={"model": "m", "messages": [{}]})
        assert response.json()["type"] == "error"
        assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_an_error_500_is_tried_on_one_other_engine_and_blamed_on_the_first_if_that_answers() -> None:
    async with cluster(SCENARIOS["error"], OK, OK) as (door, engines):
        assert (await door.chat()).status_code == 200
        assert [len(engine.requests) for engine in engines] == [1, 1, 0]
        out = [door.app._proxy.balancer.is_out(engine.address) for engine in engines]
        assert out == [True, False, False]


async def test_an_error_500_of_two_engines_is_the_requests_own() -> None:
    async with cluster(SCENARIOS["error"], SCENARIOS["error"], OK) as (door, engines):
        response = await door.chat()
        assert response.status_code == 502
        assert error_of(response.content) == {
            "message": "The engine failed: boom",
            "type": "server_error",
            "param": None,
            "code": "engine_failed",
        }
        assert response.headers["x-should-retry"] == "false"
        assert [len(engine.requests) for engine in engines] == [1, 1, 0]
        assert not any(door.app._proxy.balancer.is_out(engine.address) for engine in engines)


async def test_an_engine_that_refuses_our_key_is_passed_over_and_clients_are_not_told_that_theirs_is_wrong() -> None:
    async with cluster([Send(recorded("error_key"))], OK) as (door, engines):
        assert (await door.chat()).status_code == 200
        assert door.app._proxy.balancer.is_out(engines[0].address)
    async with cluster([Send(recorded("error_key"))]) as (door, _):
        assert (await door.chat()).status_code == 502


# --- the engine fails ---

BROKEN: dict[str, Script] = {
    "close": [Close()],
    "reset": [Close(reset=True)],
    "half a head": [Send(b"HTTP/1.1 200 OK\r\nContent-Le"), Close()],
    "garbage": SCENARIOS["garbage"],
    "endless headers": SCENARIOS["endless-headers"],
    "redirect": [Send(answer(b"", "302 Found", "text/html", "Location: http://10.0.0.1/"))],
    "short": SCENARIOS["short"],
    "stream without events": [Send(STREAM_HEAD + STREAM_END)],
    "stream that dies before its first event": [Send(STREAM_HEAD + chunk(b"data: {")), Close()],
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("stream", [False, True])
async def test_another_engine_answers_as_long_as_nothing_was_sent(script: Script, stream: bool) -> None:
    async with cluster(script, STREAM if stream else OK) as (door, engines):
        response = await door.chat(stream=stream)
        assert response.status_code == 200
        assert b"hi" in response.content
        assert [len(engine.requests) for engine in engines] == [1, 1]
        assert door.app._proxy.balancer.is_out(engines[0].address)
        await door.chat(stream=stream)
        assert [len(engine.requests) for engine in engines] == [1, 2]  # it is out at once
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="2xx") == 2


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
async def test_a_request_that_breaks_two_engines_is_not_shown_a_third(script: Script) -> None:
    async with cluster(script, script, OK) as (door, engines):
        response = await door.chat()
        assert response.status_code == 502
        assert error_of(response.content)["code"] == "engine_failed"
        assert response.headers["x-should-retry"] == "true"
        assert [len(engine.requests) for engine in engines] == [1, 1, 0]


async def test_engines_that_are_not_there_or_still_load_are_all_passed_over() -> None:
    async with FakeEngine(SCENARIOS["loading"]) as loading, FakeEngine(OK) as fine:
        route = model(REFUSING, ("127.0.0.1", 2), loading.address, fine.address)
        async with open_door([route]) as door:
            assert (await door.chat()).status_code == 200
            assert (len(loading.requests), len(fine.requests)) == (1, 1)
            assert (await door.chat()).status_code == 200
            assert (len(loading.requests), len(fine.requests)) == (1, 2)


async def test_when_no_engine_can_be_reached_the_table_is_read_again() -> None:
    async with FakeEngine(OK) as moved:
        routes = Routes(model(REFUSING))
        routes.later(model(moved.address))
        async with open_door(routes) as door:
            assert (await door.chat()).status_code == 200
            assert routes.refreshes == 1


async def test_a_model_that_no_engine_can_be_reached_of() -> None:
    async with open_door([model(REFUSING)]) as door:
        response = await door.chat()
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert error_of(response.content)["code"] == "engine_unreachable"
        assert door.routes.refreshes == 1
        door.routes.later(model(state="loading"))
        assert error_of((await door.chat()).content)["code"] == "model_loading"


async def test_an_engine_that_still_loads_is_told_as_loading() -> None:
    async with cluster(SCENARIOS["loading"]) as (door, _):
        response = await door.chat()
        assert response.status_code == 503
        assert error_of(response.content)["code"] == "model_loading"
        assert response.json()["loading"]["state"] == "loading"


async def test_an_engine_is_asked_again_when_it_is_back() -> None:
    async with FakeEngine(SCENARIOS["loading"], OK) as engine, open_door([model(engine.address)]) as door:
        assert (await door.chat()).status_code == 503
        assert (await door.chat()).status_code == 200  # it is the only one, so it is asked though it is out
        assert not door.app._proxy.balancer.is_out(engine.address)


# --- in mid-stream ---

BREAKING: dict[str, tuple[Script, str]] = {
    "close": ([Close()], "engine_failed"),
    "close in mid-event": ([Send(chunk(b'data: {"choices":[{"del')), Close()], "engine_failed"),
    "clean end without [DONE]": ([Send(STREAM_END)], "engine_failed"),
    "garbage": ([Send(b"what?"), Hang()], "engine_failed"),
    "silence": ([Hang()], "engine_timeout"),
    "the engine's own error": (
        [Send(chunk(b'data: {"error":{"code":500,"message":"boom","type":"server_error"}}\n\n') + STREAM_END)],
        "engine_failed",
    ),
}


@pytest.mark.parametrize(("script", "code"), BREAKING.values(), ids=BREAKING)
async def test_a_stream_that_breaks_off_ends_with_an_error_and_without_done(script: Script, code: str) -> None:
    begun: Script = [Send(STREAM_HEAD + chunk(delta("one")))]
    limits = ProxyLimits(timeouts=Timeouts(idle=0.2))
    async with cluster(begun + script, STREAM, limits=limits) as (door, engines):
        response, body = await stream_of(door)
        assert response.status_code == 200
        assert body.startswith(delta("one") + b'data: {"error": ')
        assert body.endswith(b"\n\n")
        assert DONE not in body
        assert error_of(body)["code"] == code
        assert len(engines[1].requests) == 0  # never after the first byte
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="5xx") == 1


async def test_an_anthropic_stream_breaks_off_in_its_own_way() -> None:
    begun = STREAM_HEAD + chunk(b"event: message_start\ndata: {}\n\n")
    engines_own = chunk(b'event: error\ndata: {"code":500,"message":"boom","type":"server_error"}\n\n')
    scripts: list[Script] = [[Send(begun), Close()], [Send(begun + engines_own + STREAM_END)]]
    for script in scripts:
        async with cluster(script) as (door, _):
            _, body = await stream_of(door, "/v1/messages")
            assert b'event: error\ndata: {"type": "error", "error": {' in body
            assert error_of(body)["code"] == "engine_failed"


async def test_an_engine_that_errs_before_its_first_event_answers_with_a_status() -> None:
    event = chunk(b'data: {"error":{"code":400,"message":"no","type":"invalid_request_error"}}\n\n')
    async with cluster([Send(STREAM_HEAD + event + STREAM_END)]) as (door, _):
        response, body = await stream_of(door)
        assert response.status_code == 400
        assert error_of(body)["message"] == "no"


async def test_a_connection_that_dies_after_done_is_no_error() -> None:
    async with cluster([Send(STREAM_HEAD + chunk(delta("hi")) + chunk(DONE)), Close(reset=True)]) as (door, engines):
        _, body = await stream_of(door)
        assert body == delta("hi") + DONE
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="2xx") == 1
        assert not door.app._proxy.balancer.is_out(engines[0].address)


async def test_a_large_answer_that_breaks_off_stays_short_of_its_length() -> None:
    head = answer(b"x" * 500_000)[:300_000]
    async with cluster([Send(head), Close()], limits=ProxyLimits(held_answer_size=1000)) as (door, engines):
        with pytest.raises(httpx.RemoteProtocolError):
            await door.chat()
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="5xx") == 1
        assert door.app._proxy.balancer.is_out(engines[0].address)


# --- time ---


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_does_not_answer_in_time(stream: bool) -> None:
    limits = ProxyLimits(total_time=0.1, timeouts=Timeouts(first_byte=60))
    async with cluster([Hang()], OK, limits=limits) as (door, engines):
        response = await door.chat(stream=stream)
        assert response.status_code == 504
        assert error_of(response.content)["code"] == "engine_timeout"
        assert response.headers["x-should-retry"] == "false"
        await engines[0].until(lambda engine: engine.gone == 1)
        assert len(engines[1].requests) == 0
        assert not door.app._proxy.balancer.is_out(engines[0].address)  # it may be the request that takes so long


async def test_a_stream_has_a_deadline_for_its_first_byte_and_an_answer_in_one_piece_has_not() -> None:
    limits = ProxyLimits(total_time=0.3, timeouts=Timeouts(first_byte=0.05))
    async with cluster([Hang()], limits=limits) as (door, engines):
        response = await door.chat(stream=True)
        assert (response.status_code, "first_byte" in response.text) == (504, True)
        assert door.app._proxy.balancer.is_out(engines[0].address)
        response = await door.chat()
        assert (response.status_code, "total" in response.text) == (504, True)


async def test_a_stream_that_never_ends_is_ended() -> None:
    limits = ProxyLimits(total_time=0.1)
    async with cluster([Send(STREAM_HEAD), Endless(chunk(delta("more")))], limits=limits) as (door, engines):
        _, body = await stream_of(door)
        assert error_of(body)["code"] == "engine_timeout"
        await engines[0].until(lambda engine: engine.gone == 1)


# --- the client goes ---

WINDOWS: dict[str, tuple[Script, bool]] = {
    "before the head": ([Hang()], True),
    "before the head, in one piece": ([Hang()], False),
    "in the head": ([Send(b"HTTP/1.1 200 OK\r\n"), Hang()], True),
    "before the first event": ([Send(STREAM_HEAD + chunk(b"data: {")), Hang()], True),
    "in mid-stream": ([Send(STREAM_HEAD + chunk(delta("hi"))), Hang()], True),
    "while events come": ([Send(STREAM_HEAD), Endless(chunk(delta("hi")))], True),
    "in an answer in one piece": ([Send(answer(b"x" * 100)[:-50]), Hang()], False),
    "in a large answer in one piece": ([Send(answer(b"x" * 10_000_000)[:-50]), Hang()], False),
}


@pytest.mark.parametrize(("script", "stream"), WINDOWS.values(), ids=WINDOWS)
async def test_a_client_that_goes_ends_the_engines_work(script: Script, stream: bool) -> None:
    async with cluster(script, OK) as (door, engines):
        asking = asyncio.create_task(door.chat(stream=stream))
        await engines[0].until(lambda engine: len(engine.requests) == 1)
        if script != [Hang()]:
            await until(lambda: engines[0].written > 0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await engines[0].until(lambda engine: engine.gone == 1)
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="gone") == 1
        assert len(engines[1].requests) == 0
        assert not door.app._proxy.balancer.is_out(engines[0].address)


async def test_a_client_that_goes_while_the_table_is_read_reaches_no_engine() -> None:
    async with FakeEngine(OK) as engine:
        routes = Routes(model(REFUSING))
        routes.hangs = True
        async with open_door(routes, limits=ProxyLimits(refresh_time=0.2)) as door:
            asking = asyncio.create_task(door.chat())
            await until(lambda: routes.refreshes == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            routes.table = routes.table.model_copy(update={"models": {"m": model(engine.address)}})
            await until(lambda: is_at_rest(door, engine))
            assert engine.requests == []


async def test_a_slow_client_makes_the_engine_wait() -> None:
    async with cluster([Send(STREAM_HEAD), Endless(chunk(delta("x" * 1000)))]) as (door, [engine]):
        body = {"model": "m", "messages": [{}], "stream": True}
        async with door.client.stream("POST", "/v1/chat/completions", json=body):
            written = -1
            async with asyncio.timeout(20):
                while written != engine.written:  # until nothing fits into any buffer on the way
                    written = engine.written
                    await asyncio.sleep(0.1)
            assert 0 < written < 64 * 1024 * 1024
        await engine.until(lambda engine: engine.gone == 1)


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
