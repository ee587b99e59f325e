"""What waits for a deployment through the door, and what may not."""

import asyncio

import httpx
import pytest

from api.openai.router import ModelRoute
from tests.api.openai.cluster import OK, cluster, error_of, is_at_rest
from tests.api.openai.serving import Door, Routes, model, open_door, until
from tests.fakes.engine import SCENARIOS, Close, FakeEngine, Gate, Script

pytestmark = pytest.mark.anyio


def queued(route: ModelRoute, queue: int) -> ModelRoute:
    return route.model_copy(update={"queue": queue})


async def fill(door: Door, engine: FakeEngine, count: int) -> list[asyncio.Task[httpx.Response]]:
    """So many requests that are at the engine."""
    asking = [asyncio.create_task(door.chat()) for _ in range(count)]
    await engine.until(lambda engine: len(engine.requests) == count)
    return asking


async def test_past_slots_and_queue_there_is_429_until_one_is_done() -> None:
    gate = Gate()
    async with FakeEngine([gate, *OK]) as engine, open_door([queued(model(engine.address), 2)]) as door:
        asking = await fill(door, engine, 6)
        assert door.metric("stoker_requests_queued", model="m") == 2
        assert door.metric("stoker_requests_running", model="m") == 6
        refused = await door.chat()
        assert refused.status_code == 429
        assert error_of(refused.content) == {
            "message": "All slots of the model 'm' are taken and 2 requests wait for one, as many as may.",
            "type": "rate_limit_error",
            "param": "model",
            "code": "queue_full",
        }
        assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
        assert len(engine.requests) == 6, "it reached no engine"
        gate.event.set()
        assert {response.status_code for response in await asyncio.gather(*asking)} == {200}
        await until(lambda: is_at_rest(door, engine))
        assert (await door.chat()).status_code == 200
        await until(lambda: is_at_rest(door, engine))
        assert door.metric("stoker_requests_queued", model="m") == 0
        assert door.metric("stoker_requests_total", model="m", status_class="4xx") == 1


async def test_a_client_that_goes_gives_its_place_back() -> None:
    async with FakeEngine([Gate()]) as engine, open_door([queued(model(engine.address), 0)]) as door:
        asking = await fill(door, engine, 4)
        assert (await door.chat()).status_code == 429
        asking[0].cancel()
        await engine.until(lambda engine: engine.gone == 1)
        more = asyncio.create_task(door.chat())
        await engine.until(lambda engine: len(engine.requests) == 5)
        for task in [*asking, more]:
            task.cancel()
        await asyncio.gather(*asking, more, return_exceptions=True)


async def test_a_bound_that_is_raised_counts_at_once() -> None:
    gate = Gate()
    async with FakeEngine([gate, *OK]) as engine:
        routes = Routes(queued(model(engine.address), 0))
        async with open_door(routes) as door:
            asking = await fill(door, engine, 4)
            assert (await door.chat()).status_code == 429
            routes.later(queued(model(engine.address), 1))
            await routes.refresh()
            asking.append(asyncio.create_task(door.chat()))
            await engine.until(lambda engine: len(engine.requests) == 5)
            gate.event.set()
            assert {response.status_code for response in await asyncio.gather(*asking)} == {200}


async def test_a_refused_request_does_not_wait_with_those_of_other_models() -> None:
    gate = Gate()
    async with FakeEngine([gate, *OK]) as busy, FakeEngine(OK) as idle:
        models = [queued(model(busy.address), 0), model(idle.address, name="other")]
        async with open_door(models) as door:
            asking = await fill(door, busy, 4)
            assert (await door.chat()).status_code == 429
            assert (await door.chat(model="other")).status_code == 200
            gate.event.set()
            await asyncio.gather(*asking)


async def test_every_outcome_gives_its_place_back() -> None:
    scripts: list[Script] = [SCENARIOS["error"], [Close()], OK, SCENARIOS["loading"]]
    async with cluster(*scripts) as (door, engines):
        for _ in range(20):
            await door.chat()
        await until(lambda: is_at_rest(door, *engines))
        assert door.app._proxy.queues._lines["m"].inside == 0
