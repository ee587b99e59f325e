"""Answers that break off after the client has seen their beginning."""

import json
from typing import Any

import httpx
import pytest
import structlog

from api.openai.exchange import Timeouts
from api.openai.proxy import ProxyLimits
from tests.api.openai.cluster import STREAM, cluster, error_of, is_at_rest, stream_of
from tests.api.openai.serving import until
from tests.api.openai.test_responses_stream import told
from tests.fakes.engine import DONE, STREAM_END, STREAM_HEAD, Close, Hang, Script, Send, answer, chunk, delta

pytestmark = pytest.mark.anyio

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


async def test_what_an_engine_says_in_mid_stream_is_logged_and_it_is_not_blamed() -> None:
    event = chunk(b'data: {"error":{"code":500,"message":"boom","type":"server_error"}}\n\n')
    with structlog.testing.capture_logs() as logs:
        async with cluster([Send(STREAM_HEAD + chunk(delta("hi")) + event + STREAM_END)]) as (door, [engine]):
            await stream_of(door)
            await until(lambda: is_at_rest(door, engine))
            assert not door.app._proxy.balancer.is_out(engine.address)
    [logged] = [entry for entry in logs if entry["event"] == "engine_failed"]
    assert (logged["instance"], logged["at_fault"], logged["reason"]) == ("m-0", False, "The engine failed: boom")


async def test_an_anthropic_stream_breaks_off_in_its_own_way() -> None:
    begun = STREAM_HEAD + chunk(b"event: message_start\ndata: {}\n\n")
    engines_own = chunk(b'event: error\ndata: {"code":500,"message":"boom","type":"server_error"}\n\n')
    scripts: list[Script] = [[Send(begun), Close()], [Send(begun + engines_own + STREAM_END)]]
    for script in scripts:
        async with cluster(script) as (door, _):
            _, body = await stream_of(door, "/v1/messages")
            assert b'event: error\ndata: {"type": "error", "error": {' in body
            assert error_of(body)["code"] == "engine_failed"


async def test_a_response_breaks_off_with_an_event_of_the_name_error() -> None:
    begun = told(
        {"type": "response.created", "response": {"id": "resp_1", "object": "response", "status": "in_progress"}}
    )
    async with cluster([Send(STREAM_HEAD + chunk(begun)), Close(reset=False)]) as (door, _):
        _, body = await stream_of(door, "/v1/responses")
        assert b"\n\nevent: error\ndata: {" in body
        assert error_of(body)["code"] == "engine_failed"
        assert json.loads(body.rpartition(b"data: ")[2])["type"] == "error"


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


async def test_what_an_engine_says_after_done_is_not_heard() -> None:
    late = b'data: {"error":{"code":500,"message":"late"}}\n\n'
    async with cluster([Send(STREAM_HEAD + chunk(delta("hi") + DONE + late) + STREAM_END)]) as (door, _):
        assert (await stream_of(door))[1] == delta("hi") + DONE


async def test_a_large_answer_that_breaks_off_stays_short_of_its_length() -> None:
    head = answer(b"x" * 500_000)[:300_000]
    async with cluster([Send(head), Close()], limits=ProxyLimits(held_answer_size=1000)) as (door, engines):
        with pytest.raises(httpx.RemoteProtocolError):
            await door.chat()
        await until(lambda: is_at_rest(door, *engines))
        assert door.metric("stoker_requests_total", model="m", status_class="5xx") == 1
        assert door.app._proxy.balancer.is_out(engines[0].address)


ODD = {
    "a response's stream": (
        "/v1/responses",
        {"stream": True},
        [Send(STREAM_HEAD + told({"type": "response.created", "response": "none"}))],
    ),
    "log probabilities": ("/v1/completions", {"logprobs": 1}, [Send(answer(b'{"choices":["none"]}'))]),
    "several choices": (
        "/v1/chat/completions",
        {"n": 2},
        [Send(STREAM_HEAD + chunk(b'data: {"choices":[{"index":0,"delta":"none"}]}\n\n' + DONE) + STREAM_END)],
    ),
}


@pytest.mark.parametrize(("path", "fields", "script"), ODD.values(), ids=ODD)
async def test_json_of_an_odd_form_is_the_engines_failure(path: str, fields: dict[str, Any], script: Script) -> None:
    async with cluster(script, script) as (door, engines):
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"} | fields
        body = {name: value for name, value in body.items() if name in ("model", _PROMPTS[path], *fields)}
        response = await door.client.post(path, json=body)
        assert (response.status_code, error_of(response.content)["code"]) == (502, "engine_failed")
        assert [len(engine.requests) for engine in engines] == [1, 1]  # nothing had gone out: the other one was asked
        await until(lambda: is_at_rest(door, *engines))


_PROMPTS = {"/v1/responses": "input", "/v1/completions": "prompt", "/v1/chat/completions": "messages"}
