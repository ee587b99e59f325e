"""Engines that refuse, fail or are late: which other is asked, and what the client is told."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from api.openai.exchange import Timeouts
from api.openai.proxy import ProxyLimits
from tests.api.openai.cluster import OK, REFUSING, STREAM, cluster, error_of, is_at_rest, stream_of
from tests.api.openai.recordings import recorded
from tests.api.openai.serving import Routes, model, open_door, until
from tests.fakes.engine import (
    SCENARIOS,
    STREAM_END,
    STREAM_HEAD,
    Close,
    Endless,
    FakeEngine,
    Hang,
    Script,
    Send,
    answer,
    chunk,
    delta,
)

pytestmark = pytest.mark.anyio

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


@contextmanager
def silent_host() -> Iterator[tuple[str, int]]:
    """An address where nobody says yes or no, as of a host without power: its queue of connections is full."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):  # one more than it says
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


async def test_a_dead_host_is_given_up_soon_and_another_engine_answers() -> None:
    assert Timeouts().connect <= 2.0
    limits = ProxyLimits(timeouts=Timeouts(connect=0.05))
    with silent_host() as dead:
        async with FakeEngine(OK) as fine, open_door([model(dead, fine.address)], limits=limits) as door:
            assert (await door.chat()).status_code == 200
            assert door.app._proxy.balancer.is_out(dead)
            assert (await door.chat()).status_code == 200, "and nobody asks it for now"
            assert len(fine.requests) == 2


async def test_a_model_on_a_dead_host_alone_fails_soon() -> None:
    limits = ProxyLimits(timeouts=Timeouts(connect=0.05))
    with silent_host() as dead:
        async with open_door([model(dead)], limits=limits) as door:
            response = await door.chat()
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")
            assert error_of(response.content)["code"] == "engine_unreachable"


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
