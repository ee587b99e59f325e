"""What the long run of outages makes of its load; `python -m tests.outage_run` takes the parts away."""

import asyncio
import time

import pytest

from tests.fakes.engine import Close, FakeEngine, Script, Send, answer
from tests.live.load import Asked, Key, Load, Turn
from tests.live.questions import questions
from tests.live.watch import metric

METRICS = """# HELP stoker_usage_records_waiting Not in the database yet.
# TYPE stoker_usage_records_waiting gauge
stoker_usage_records_waiting 3.0
stoker_requests_total{model="a",status_class="2xx"} 5.0
stoker_requests_total{model="b",status_class="2xx"} 2.0
stoker_requests_total_other 100.0
"""

CHAT = (
    b'{"choices":[{"index":0,"message":{"content":"%s"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
)


@pytest.mark.parametrize(
    ("name", "value"),
    [("stoker_usage_records_waiting", 3.0), ("stoker_requests_total", 7.0), ("stoker_nothing", None)],
)
def test_metric(name: str, value: float | None) -> None:
    assert metric(METRICS, name) == value


def of_load(*scripts: Script, enough: int) -> list[Asked]:
    """What a load meets at an engine that answers so, the last one for ever."""

    async def run() -> list[Asked]:
        async with FakeEngine(*scripts) as engine:
            return await asyncio.to_thread(_asked, engine.address, enough)

    return asyncio.run(run())


def _asked(address: tuple[str, int], enough: int) -> list[Asked]:
    turn = Turn(questions("m", tokens=2, prompt="a")["chat"], Key("app", "1", "sk-1"))
    with Load(address, [turn], rate=200.0) as load:
        deadline = time.monotonic() + 20
        while len(load.asked()) < enough and time.monotonic() < deadline:
            time.sleep(0.01)
    return load.asked()


def good(text: bytes = b"hi") -> Script:
    return [Send(answer(CHAT % text, "200 OK", "application/json", "x-request-id: r"))]


def test_a_load_counts_what_is_lost_and_what_is_wrong() -> None:
    bad: Script = [Send(answer(b'{"error":{}}', "503 Service Unavailable", "application/json", "x-request-id: r"))]
    found = of_load(good(), good(), bad, [Close()], good(b"something else"), good(), enough=20)
    assert sum(one.lost for one in found) == 2
    assert [one.status for one in found if one.lost and one.status] == [503]
    assert [one.wrong for one in found if not one.right and not one.lost] == ["'something else', not 'hi'"]
    assert sum(one.right for one in found) == len(found) - 3
    assert {one.tokens for one in found if one.right} == {(5, 2)}
