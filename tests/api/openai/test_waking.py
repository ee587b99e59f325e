"""Requests for a model that sleeps: held, woken for, answered; or refused in good time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from api.openai.proxy import ProxyLimits
from api.openai.queueing import Asked
from api.openai.router import ModelRoute, RouteTable
from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget
from tests.api.openai.cluster import OK, REFUSING, STREAM, error_of, stream_of
from tests.api.openai.serving import Door, Routes, model, open_door, until
from tests.fakes.engine import FakeEngine, Script

pytestmark = pytest.mark.anyio


def asleep(**fields: Any) -> ModelRoute:
    """A model that starts when it is asked."""
    return model(**({"autoscaled": True, "state": "stopped"} | fields))


class Sleepers(Routes):
    """A route source, and who wakes what sleeps in it."""

    def __init__(self, *routes: ModelRoute, names: tuple[RouteSpec, ...] = ()) -> None:
        super().__init__(*routes, names=names)
        self.woken: list[str] = []
        self.on_wake: Callable[[], None] = lambda: None

    def wake(self, deployment: str) -> None:
        """As the door has it done."""
        self.woken.append(deployment)
        self.on_wake()

    def becomes(self, *routes: ModelRoute) -> None:
        """What the next refresh finds; names stay."""
        self.next = RouteTable(models={route.name: route for route in routes}, routes=self.table.routes)


@asynccontextmanager
async def sleeping(
    *scripts: Script, limits: ProxyLimits | None = None, **fields: Any
) -> AsyncIterator[tuple[Door, Sleepers, list[FakeEngine]]]:
    """The door with one model `m` that sleeps, and engines that nobody knows yet."""
    routes = Sleepers(asleep(**fields))
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine(script)) for script in scripts]
        yield await stack.enter_async_context(open_door(routes, limits=limits, wakes=routes)), routes, engines


def held(door: Door) -> int:
    """Requests that wait."""
    return door.app.asked().get("m", Asked(0, 0)).busy


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_wakes_the_model_and_is_answered(stream: bool) -> None:
    async with sleeping(STREAM if stream else OK) as (door, routes, [engine]):
        asking = asyncio.create_task(stream_of(door) if stream else door.chat())
        await until(lambda: held(door) == 1 and len(routes.woken) > 0)
        assert door.metric("stoker_requests_queued", model="m") == 1
        routes.becomes(asleep(state="loading", progress=0.5))
        await until(lambda: routes.table.models["m"].progress == 0.5)
        woken = len(routes.woken)
        routes.becomes(model(engine.address, autoscaled=True))
        response = await asking
        assert (response[0] if isinstance(response, tuple) else response).status_code == 200
        await door.until_idle()
        assert set(routes.woken) == {"m"}
        assert len(routes.woken) == woken, "what loads is woken no more"
        assert door.app.asked() == {"m": Asked(0, 1)}


async def test_all_that_come_while_it_starts_are_answered() -> None:
    async with sleeping(OK) as (door, routes, [engine]):
        asking = [asyncio.create_task(door.chat()) for _ in range(100)]
        await until(lambda: held(door) == 100)
        routes.becomes(model(engine.address, autoscaled=True))
        assert {(await one).status_code for one in asking} == {200}
        assert door.app.asked() == {"m": Asked(0, 100)}
        assert (await door.chat()).status_code == 200
        assert door.metric("stoker_requests_queued", model="m") == 0


async def test_one_that_is_on_its_way_is_waited_for_and_not_woken() -> None:
    async with sleeping(OK, state="loading") as (door, routes, [engine]):
        asking = asyncio.create_task(door.chat())
        await until(lambda: held(door) == 1)
        routes.becomes(model(engine.address, autoscaled=True))
        assert (await asking).status_code == 200
        assert routes.woken == []


async def fallen_asleep(routes: Sleepers) -> None:
    """The table still names an engine that is gone; the next one says that the model sleeps."""
    routes.becomes(model(REFUSING, autoscaled=True))
    await routes.refresh()
    routes.becomes(asleep())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_on_whose_way_the_model_falls_asleep_wakes_it(stream: bool) -> None:
    async with sleeping(STREAM if stream else OK) as (door, routes, [engine]):
        await fallen_asleep(routes)
        asking = asyncio.create_task(stream_of(door) if stream else door.chat())
        await until(lambda: held(door) == 1 and len(routes.woken) > 0)
        routes.becomes(model(engine.address, autoscaled=True))
        response = await asking
        assert (response[0] if isinstance(response, tuple) else response).status_code == 200
        await door.until_idle()
        assert held(door) == 0


class Flapping(Sleepers):
    """Every other time that it is read the model has an engine, which nobody reaches."""

    async def refresh(self) -> RouteTable:
        """As the table's source."""
        self.becomes(asleep() if self.table.models["m"].replicas else model(REFUSING, autoscaled=True))
        return await super().refresh()


async def test_one_that_falls_asleep_again_and_again_is_not_waited_for_for_ever() -> None:
    routes = Flapping(model(REFUSING, autoscaled=True))
    async with open_door(routes, wakes=routes) as door:
        response = await door.chat()
        assert (response.status_code, error_of(response.content)["code"]) == (503, "model_loading")
        assert held(door) == 0


@pytest.mark.parametrize("state", ["loading", "pending", "stopped"])
async def test_one_that_demand_does_not_scale_is_not_waited_for(state: str) -> None:
    async with sleeping(state=state, autoscaled=False) as (door, routes, _):
        assert (await door.chat()).status_code == 503
        assert (routes.woken, door.app.asked()) == ([], {})


async def test_a_client_that_goes_leaves_its_place() -> None:
    async with sleeping(OK) as (door, routes, [engine]):
        asking = [asyncio.create_task(door.chat()) for _ in range(3)]
        await until(lambda: held(door) == 3)
        asking[1].cancel()
        await until(lambda: held(door) == 2)
        assert door.metric("stoker_requests_total", model="m", status_class="gone") == 1
        routes.becomes(model(engine.address, autoscaled=True))
        assert [(await one).status_code for one in (asking[0], asking[2])] == [200, 200]
        assert len(engine.requests) == 2


async def test_who_has_waited_too_long_is_told_how_far_it_is() -> None:
    async with sleeping(limits=ProxyLimits(wake_time=0.3)) as (door, routes, _):
        routes.on_wake = lambda: routes.becomes(
            asleep(state="loading", worker="w1", progress=0.25, eta_seconds=30.0, message="reads its file")
        )
        response = await door.chat()
        assert (response.status_code, error_of(response.content)["code"]) == (503, "model_loading")
        assert response.headers["retry-after"] == "30"
        assert response.headers["x-should-retry"] == "true"
        assert response.json()["loading"] == {
            "state": "loading",
            "worker": "w1",
            "progress": 0.25,
            "eta_seconds": 30.0,
        }
        assert held(door) == 0


async def test_one_that_nobody_can_wake_now_may_be_asked_again() -> None:
    async with sleeping(limits=ProxyLimits(wake_time=0.3)) as (door, routes, _):
        response = await door.chat()
        error = error_of(response.content)
        assert (response.status_code, error["code"]) == (503, "model_loading")
        assert error["message"] == "The model 'm' sleeps, and starts when it is asked."
        assert len(routes.woken) > 1, "it was tried again and again"


@pytest.mark.parametrize(
    ("after", "status", "code"),
    [
        ([model(autoscaled=True, state="failed", message="bad file")], 503, "model_failed"),
        ([model(state="stopped")], 503, "model_stopped"),
        ([], 404, "model_not_found"),
    ],
    ids=["it cannot start", "it is to stay stopped", "it was deleted"],
)
async def test_what_will_not_start_is_not_waited_for(after: list[ModelRoute], status: int, code: str) -> None:
    async with sleeping() as (door, routes, _):
        asking = asyncio.create_task(door.chat())
        await until(lambda: held(door) == 1)
        routes.becomes(*after)
        response = await asking
        assert (response.status_code, error_of(response.content)["code"]) == (status, code)
        await until(lambda: not door.app._proxy._waking._held)


@pytest.mark.parametrize("queue", [0, 2])
async def test_no_more_wait_than_its_queue_holds(queue: int) -> None:
    async with sleeping(OK, queue=queue) as (door, routes, [engine]):
        asking = [asyncio.create_task(door.chat()) for _ in range(queue)]
        await until(lambda: held(door) == queue)
        refused = await door.chat()
        assert (refused.status_code, error_of(refused.content)["code"]) == (503, "model_loading")
        assert "retry-after" in refused.headers
        assert routes.woken, "also where none may wait"
        routes.becomes(model(engine.address, autoscaled=True))
        assert [(await one).status_code for one in asking] == [200] * queue


@pytest.mark.parametrize(("statuses", "waits"), [((503,), False), ((429,), True)])
async def test_another_model_that_can_answer_now_comes_before_the_wait(statuses: tuple[int, ...], waits: bool) -> None:
    targets, fallbacks = (RouteTarget(deployment="m"),), (Fallback(deployment="other", statuses=statuses),)
    spec = RouteSpec(name="alias", targets=targets, fallbacks=fallbacks)
    async with FakeEngine(OK) as engine:
        other = model(engine.address, name="other")
        routes = Sleepers(asleep(), other, names=(spec,))
        async with open_door(routes, wakes=routes) as door:
            asking = asyncio.create_task(door.chat(model="alias"))
            if waits:
                await until(lambda: held(door) == 1)
                routes.becomes(model(engine.address, autoscaled=True), other)
            assert (await asking).status_code == 200
            assert "m" in routes.woken, "it is woken in any case"
            assert ("m" in door.app.asked()) is waits
