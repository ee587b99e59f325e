"""Limits as clients meet them: through the door, with the real gate."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.limits.gate import LimitGate
from api.openai.admission import BYTES_PER_TOKEN, DEFAULT_OUTPUT_TOKENS, reserve_for
from api.openai.auth import Principal
from api.openai.validation import EngineRequest
from stoker.domain.keys import KeyLimits
from tests.api.openai.recordings import recorded
from tests.api.openai.serving import model, open_door
from tests.fakes.engine import Close, FakeEngine, Gate, Hang, Send

pytestmark = pytest.mark.anyio


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[LimitGate]:
    """One that has counted nothing yet."""
    made = LimitGate(tmp_path / "counters")
    yield made
    made.close()


def owner(**limits: int) -> Principal:
    """Of the key that opens the door."""
    return Principal(key_id="k", name="app", limits=KeyLimits(**limits))


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (EngineRequest("m", prompt_size=4000, max_output=100), 4000 // BYTES_PER_TOKEN + 100),
        (EngineRequest("m", prompt_size=3, max_output=100, choices=3, answers=6), 600),
        (EngineRequest("m", prompt_size=400), 400 // BYTES_PER_TOKEN + DEFAULT_OUTPUT_TOKENS),
        (EngineRequest("m", max_output=0), 0),
    ],
)
def test_what_is_reserved(request_: EngineRequest, tokens: int) -> None:
    assert reserve_for(request_) == tokens


async def test_answers_say_what_is_left_and_the_next_one_is_refused(gate: LimitGate) -> None:
    async with (
        FakeEngine([Send(recorded("chat"))]) as engine,
        open_door([model(engine.address)], gate=gate, principal=owner(requests_per_minute=2)) as door,
    ):
        for left in ("1", "0"):
            answer = await door.chat()
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == left
        refused = await door.chat()
        assert refused.status_code == 429
        assert refused.json()["error"].keys() == {"message", "type", "param", "code"}
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert 1 <= int(refused.headers["retry-after-ms"]) <= 61_000
        assert len(engine.requests) == 2


async def test_what_was_reserved_is_settled_with_what_the_engine_counted(gate: LimitGate) -> None:
    async with (
        FakeEngine([Send(recorded("chat"))]) as engine,
        open_door([model(engine.address)], gate=gate, principal=owner(tokens_per_minute=10_000)) as door,
    ):
        reserved = 10_000 - int((await door.chat(max_tokens=5000)).headers["x-ratelimit-remaining-tokens"])
        answer = await door.chat(max_tokens=0)
        assert reserved > 5000
        used = 10_000 - int(answer.headers["x-ratelimit-remaining-tokens"])
        assert 0 < used < 1000


async def test_a_request_that_no_engine_answered_costs_no_tokens(gate: LimitGate) -> None:
    async with (
        FakeEngine([Close()]) as engine,
        open_door([model(engine.address)], gate=gate, principal=owner(tokens_per_minute=1000, concurrency=1)) as door,
    ):
        for _ in range(3):
            answer = await door.chat(max_tokens=900)
            assert answer.status_code in (502, 503), answer.text


async def test_requests_at_once_and_a_client_that_leaves(gate: LimitGate) -> None:
    held = Gate()
    async with (
        FakeEngine([Hang()], [held, Send(recorded("chat"))], [Send(recorded("chat"))]) as engine,
        open_door([model(engine.address)], gate=gate, principal=owner(concurrency=1)) as door,
    ):
        leaving = asyncio.create_task(door.chat())
        await engine.until(lambda engine: len(engine.requests) == 1)
        refused = await door.chat()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await engine.until(lambda engine: engine.gone == 1)
        await door.until_idle()
        staying = asyncio.create_task(door.chat())
        await engine.until(lambda engine: len(engine.requests) == 2)
        assert (await door.chat()).status_code == 429
        held.event.set()
        assert (await staying).status_code == 200
        assert (await door.chat()).status_code == 200


async def test_anthropics_clients_get_the_refusal_in_their_shape(gate: LimitGate) -> None:
    async with (
        FakeEngine([Send(recorded("chat"))]) as engine,
        open_door([model(engine.address)], gate=gate, principal=owner(tokens_per_month=1)) as door,
    ):
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        answer = await door.client.post("/v1/messages", json=body)
        assert (answer.status_code, answer.json()["type"]) == (429, "error")
        assert answer.json()["error"]["code"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers


async def test_a_key_without_limits_sees_nothing_of_them(gate: LimitGate) -> None:
    async with (
        FakeEngine([Send(recorded("chat"))]) as engine,
        open_door([model(engine.address)], gate=gate, principal=Principal(key_id="k", name="app")) as door,
    ):
        answer = await door.chat()
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
