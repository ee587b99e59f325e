"""Names that are no deployment's own, through the door: aliases, shares and fallbacks."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from api.openai.auth import Principal
from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget
from stoker.domain.usage import UsageRecord
from tests.api.openai.cluster import OK, error_of, is_at_rest, stream_of
from tests.api.openai.serving import Door, Routes, model, open_door, until
from tests.fakes.engine import (
    SCENARIOS,
    STREAM_END,
    STREAM_HEAD,
    Close,
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


class Records:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.kept: list[UsageRecord] = []

    def record(self, record: UsageRecord) -> None:
        self.kept.append(record)


def to(**weights: int) -> tuple[RouteTarget, ...]:
    return tuple(RouteTarget(deployment=name, weight=weight) for name, weight in weights.items())


@asynccontextmanager
async def named(
    scripts: dict[str, Script], *names: RouteSpec, **options: Any
) -> AsyncIterator[tuple[Door, dict[str, FakeEngine]]]:
    """The door with a deployment and an engine for each script, and routes."""
    async with AsyncExitStack() as stack:
        engines = {name: await stack.enter_async_context(FakeEngine(script)) for name, script in scripts.items()}
        models = [model(engine.address, name=name) for name, engine in engines.items()]
        yield await stack.enter_async_context(open_door(Routes(*models, names=names), **options)), engines


def asked(engines: dict[str, FakeEngine]) -> dict[str, int]:
    return {name: len(engine.requests) for name, engine in engines.items()}


async def test_an_alias_leads_to_its_deployment_and_the_body_stays_as_it_is() -> None:
    records = Records()
    spec = RouteSpec(name="meta-llama/Llama-3.1-8B", targets=to(a=1))
    async with named({"a": OK}, spec, recorder=records) as (door, engines):
        response = await door.chat(model="meta-llama/Llama-3.1-8B")
        assert response.status_code == 200
        assert b'"meta-llama/Llama-3.1-8B"' in engines["a"].requests[0].body
        await until(lambda: bool(records.kept))
        assert [(one.model, one.asked) for one in records.kept] == [("a", "meta-llama/Llama-3.1-8B")]
        assert door.metric("stoker_requests_total", model="a", status_class="2xx") == 1


async def test_answers_name_the_model_as_it_was_asked() -> None:
    quoted = b'{\\"model\\":\\"a\\"}'  # as the model may write it: inside a string
    whole = b'{"choices":[{"index":0,"message":{"content":"%s"}}],"model":"a","usage":{}}' % quoted
    event = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"%s"}}],"model":"a"}\n\n' % quoted
    streamed: Script = [Send(STREAM_HEAD + chunk(event * 2 + b"data: [DONE]\n\n") + STREAM_END)]
    spec = RouteSpec(name="org/name", targets=to(a=1))
    scripts: dict[bool, Script] = {False: [Send(answer(whole))], True: streamed}
    for stream, script in scripts.items():
        async with named({"a": script}, spec) as (door, _):
            for asked_as in ("org/name", "a"):
                body = (await door.chat(model=asked_as, stream=stream)).content
                assert body.count(b'"model":"%s"' % asked_as.encode()) == (2 if stream else 1)
                assert body.count(quoted) == (2 if stream else 1)


async def test_routes_are_listed_beside_the_models() -> None:
    async with named({"a": OK}, RouteSpec(name="org/name", targets=to(a=1))) as (door, _):
        listed = (await door.client.get("/v1/models")).json()["data"]
        expected = {"id": "org/name", "object": "model", "created": 1_700_000_000, "owned_by": "stoker"}
        assert [one["id"] for one in listed] == ["a", "org/name"]
        assert (await door.client.get("/v1/models/org/name")).json() == expected == listed[1]


async def test_a_deployments_own_name_wins() -> None:
    spec = RouteSpec(name="a", targets=to(b=1))
    async with named({"a": OK, "b": OK}, spec) as (door, engines):
        assert (await door.chat(model="a")).status_code == 200
        assert asked(engines) == {"a": 1, "b": 0}
        assert [one["id"] for one in (await door.client.get("/v1/models")).json()["data"]] == ["a", "b"]


async def test_a_conversation_stays_with_its_target_and_conversations_spread_by_weight() -> None:
    async with named({"a": OK, "b": OK}, RouteSpec(name="r", targets=to(a=3, b=1))) as (door, engines):
        for number in range(80):
            begun = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {number}"}]
            before = Counter(asked(engines))
            for turn in range(3):
                said = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": f"and {turn}?"}] * turn
                assert (await door.chat(model="r", messages=begun + said)).status_code == 200
            assert sorted((Counter(asked(engines)) - before).values()) == [3], "all three went to one of them"
        assert 30 <= asked(engines)["b"] <= 90, "about a quarter of 240: the hash of these 80 texts is always the same"


async def test_without_a_conversation_the_draw_is_by_chance() -> None:
    async with named({"a": OK, "b": OK}, RouteSpec(name="r", targets=to(a=1, b=1))) as (door, engines):
        for _ in range(60):
            await door.chat(model="r")
        assert min(asked(engines).values()) > 5


def fallback(*statuses: int) -> RouteSpec:
    return RouteSpec(name="r", targets=to(a=1), fallbacks=(Fallback(deployment="b", statuses=statuses),))


FAILING: dict[str, tuple[Script, int]] = {
    "broken": ([Close()], 502),
    "failing": (SCENARIOS["error"], 502),
    "loading": (SCENARIOS["loading"], 503),
}


@pytest.mark.parametrize(("script", "status"), FAILING.values(), ids=FAILING)
async def test_a_fallback_answers_for_the_statuses_it_is_there_for(script: Script, status: int) -> None:
    records = Records()
    async with named({"a": script, "b": OK}, fallback(status), recorder=records) as (door, engines):
        response = await door.chat(model="r")
        assert response.status_code == 200
        assert asked(engines)["b"] == 1
        await until(lambda: is_at_rest(door, *engines.values()))
        assert [(one.model, one.asked, one.status, one.instance_id) for one in records.kept] == [("b", "r", 200, "b-0")]
        assert door.metric("stoker_requests_running", model="a") == 0
        assert door.app._proxy.queues.waiting() == {"a": 0, "b": 0}


@pytest.mark.parametrize(("script", "status"), FAILING.values(), ids=FAILING)
async def test_for_other_statuses_it_is_not_asked(script: Script, status: int) -> None:
    others = [each for each in (404, 429, 500, 502, 503, 504) if each != status]
    async with named({"a": script, "b": OK}, fallback(*others)) as (door, engines):
        assert (await door.chat(model="r")).status_code == status
        assert asked(engines)["b"] == 0


async def test_a_request_that_is_wrong_itself_is_nobody_elses() -> None:
    refusing: Script = [Send(answer(b'{"error":{"code":400,"message":"no","type":"x"}}', "400 Bad Request"))]
    async with named({"a": refusing, "b": OK}, fallback(404, 429, 500, 502, 503, 504)) as (door, engines):
        assert (await door.chat(model="r")).status_code == 400
        assert asked(engines)["b"] == 0


async def test_a_full_queue_leads_to_the_fallback() -> None:
    gate = Gate()
    async with FakeEngine([gate, *OK]) as busy, FakeEngine(OK) as other:
        full = model(busy.address, name="a").model_copy(update={"queue": 0})
        async with open_door(Routes(full, model(other.address, name="b"), names=[fallback(429)])) as door:
            asking = [asyncio.create_task(door.chat(model="a")) for _ in range(4)]
            await busy.until(lambda engine: len(engine.requests) == 4)
            assert (await door.chat(model="a")).status_code == 429
            assert (await door.chat(model="r")).status_code == 200
            assert len(other.requests) == 1
            gate.event.set()
            await asyncio.gather(*asking)


async def test_a_deployment_that_is_gone_counts_as_404() -> None:
    gone = RouteSpec(name="r", targets=to(gone=1), fallbacks=(Fallback(deployment="b", statuses=(404,)),))
    async with named({"b": OK}, gone) as (door, engines):
        assert (await door.chat(model="r")).status_code == 200
        assert asked(engines) == {"b": 1}
    for statuses in ((503,), ()):
        more = (Fallback(deployment="b", statuses=statuses),) if statuses else ()
        async with named({"b": OK}, RouteSpec(name="r", targets=to(gone=1), fallbacks=more)) as (door, engines):
            response = await door.chat(model="r")
            assert response.status_code == 404
            assert error_of(response.content)["code"] == "model_not_found"
            assert "leads to the deployment 'gone'" in error_of(response.content)["message"]
            assert asked(engines) == {"b": 0}


async def test_fallbacks_are_asked_in_their_order_and_the_most_hopeful_error_is_told() -> None:
    spec = RouteSpec(
        name="r",
        targets=to(a=1),
        fallbacks=(
            Fallback(deployment="gone"),
            Fallback(deployment="b", statuses=(429,)),  # nobody has answered so
            Fallback(deployment="c", statuses=(502,)),
            Fallback(deployment="d", statuses=(503,)),
        ),
    )
    scripts = {"a": SCENARIOS["error"], "b": OK, "c": SCENARIOS["loading"], "d": SCENARIOS["error"]}
    async with named(scripts, spec) as (door, engines):
        response = await door.chat(model="r")
        assert asked(engines) == {"a": 1, "b": 0, "c": 1, "d": 1}
        assert (response.status_code, error_of(response.content)["code"]) == (503, "model_loading")
        assert response.headers["x-should-retry"] == "true"
        await until(lambda: is_at_rest(door, *engines.values()))
        assert door.metric("stoker_requests_total", model="d", status_class="5xx") == 1


@pytest.mark.parametrize("end", [[Close()], [Hang()]], ids=["close", "client goes"])
async def test_after_the_first_byte_nobody_else_is_asked(end: Script) -> None:
    begun: Script = [Send(STREAM_HEAD + chunk(delta("one")))]
    async with named({"a": begun + end, "b": OK}, fallback(404, 429, 500, 502, 503, 504)) as (door, engines):
        if end == [Close()]:
            response, body = await stream_of(door, model="r")
            assert (response.status_code, error_of(body)["code"]) == (200, "engine_failed")
        else:
            body_of = {"model": "r", "messages": [{}], "stream": True}
            async with door.client.stream("POST", "/v1/chat/completions", json=body_of) as streaming:
                assert await anext(streaming.aiter_raw()) == delta("one")
            await engines["a"].until(lambda engine: engine.gone == 1)
        await until(lambda: is_at_rest(door, *engines.values()))
        assert asked(engines) == {"a": 1, "b": 0}


async def test_a_client_that_goes_is_not_answered_by_a_fallback() -> None:
    async with named({"a": [Hang()], "b": OK}, fallback(404, 429, 500, 502, 503, 504)) as (door, engines):
        asking = asyncio.create_task(door.chat(model="r"))
        await engines["a"].until(lambda engine: len(engine.requests) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: is_at_rest(door, *engines.values()))
        assert asked(engines) == {"a": 1, "b": 0}
        assert door.metric("stoker_requests_total", model="a", status_class="gone") == 1


async def test_a_stream_falls_back_too() -> None:
    streaming: Script = [Send(STREAM_HEAD + chunk(delta("hi") + b"data: [DONE]\n\n") + STREAM_END)]
    async with named({"a": SCENARIOS["loading"], "b": streaming}, fallback(503)) as (door, _):
        response, body = await stream_of(door, model="r")
        assert (response.status_code, body) == (200, delta("hi") + b"data: [DONE]\n\n")


# --- what a key may ask -----------------------------------------------------------------------------------------------


async def test_a_key_asks_and_sees_its_models_only() -> None:
    principal = Principal(key_id="k", models=frozenset({"r", "gone"}))
    async with named({"a": OK}, RouteSpec(name="r", targets=to(a=1)), principal=principal) as (door, engines):
        assert [one["id"] for one in (await door.client.get("/v1/models")).json()["data"]] == ["r"]
        assert (await door.client.get("/v1/models/r")).status_code == 200
        for response in (await door.chat(model="a"), await door.client.get("/v1/models/a"), await door.chat(model="x")):
            assert response.status_code == 403
            assert error_of(response.content)["code"] == "model_not_allowed"
        assert (await door.chat(model="r")).status_code == 200
        assert (await door.chat(model="gone")).status_code == 404
        assert asked(engines) == {"a": 1}
        assert door.metric("stoker_requests_total", model="", status_class="4xx") == 4
