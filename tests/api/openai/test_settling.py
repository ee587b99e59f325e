"""What the door tells the key's limits: before a request, and once after it, whatever became of it."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import pytest

from api.openai.admission import Admission
from api.openai.auth import Principal
from api.openai.errors import APIError, Header
from api.openai.exchange import Timeouts
from api.openai.proxy import ProxyLimits
from stoker.domain.usage import GONE, UsageRecord
from tests.api.openai.cluster import error_of, is_at_rest, stream_of
from tests.api.openai.serving import Door, model, open_door, until
from tests.fakes.engine import (
    DONE,
    SCENARIOS,
    STREAM_END,
    STREAM_HEAD,
    Close,
    FakeEngine,
    Hang,
    Script,
    Send,
    answer,
    chunk,
    delta,
)

pytestmark = pytest.mark.anyio


@dataclass
class Books:
    """A gate that writes down all that it hears, and a recorder."""

    admitted: list[tuple[str, int]] = field(default_factory=list)
    settled: list[int | None] = field(default_factory=list)
    records: list[UsageRecord] = field(default_factory=list)
    closed: bool = False
    headers: Sequence[Header] = ((b"x-ratelimit-limit-requests", b"60"), (b"x-ratelimit-remaining-requests", b"59"))

    def admit(self, principal: Principal, tokens: int) -> Admission:
        if self.closed:
            raise APIError(429, "enough", type="rate_limit_error", code="rate_limit_exceeded", retry_after=7)
        self.admitted.append((principal.key_id, tokens))
        return self

    def settle(self, tokens: int | None) -> None:
        self.settled.append(tokens)

    def record(self, record: UsageRecord) -> None:
        self.records.append(record)

    @property
    def tokens(self) -> list[tuple[int, int, int, int]]:
        return [(one.status, one.input_tokens, one.output_tokens, one.cached_tokens) for one in self.records]


def door(engine: FakeEngine, books: Books, limits: ProxyLimits | None = None) -> AbstractAsyncContextManager[Door]:
    """With one engine, and a key whose limits are `books`."""
    owner = Principal(key_id="k")
    return open_door([model(engine.address)], gate=books, recorder=books, principal=owner, limits=limits)


USAGE = b'{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":2}}'
WHOLE: Script = [Send(answer(b'{"choices":[],"usage":' + USAGE + b"}"))]
LAST = b'data: {"choices":[],"object":"chat.completion.chunk","usage":' + USAGE + b"}\n\n"
STREAM: Script = [Send(STREAM_HEAD + chunk(delta("a")) + chunk(LAST) + chunk(DONE) + STREAM_END)]


async def at_rest(running: Door, engine: FakeEngine, books: Books) -> None:
    await until(lambda: is_at_rest(running, engine) and len(books.records) == len(books.admitted))


@pytest.mark.parametrize("stream", [False, True])
async def test_what_an_answer_used_is_settled_and_recorded(stream: bool) -> None:
    books = Books()
    async with FakeEngine(STREAM if stream else WHOLE) as engine, door(engine, books) as running:
        response = await running.chat(stream=stream, max_tokens=100)
        assert response.headers["x-ratelimit-remaining-requests"] == "59"
        await at_rest(running, engine, books)
        assert books.settled == [10]
        assert books.tokens == [(200, 7, 3, 2)]
        ((key_id, reserved),) = books.admitted
        assert (key_id, reserved >= 100) == ("k", True)
        assert [(one.key_id, one.model, one.path, one.streamed) for one in books.records] == [
            ("k", "m", "/chat/completions", stream)
        ]


NOTHING: dict[str, Script] = {
    "error": SCENARIOS["error"],
    "loading": SCENARIOS["loading"],
    "refused": [Send(answer(b'{"error":{"code":400,"message":"no","type":"x"}}', "400 Bad Request"))],
    "close": [Close()],
    "begins": [Send(STREAM_HEAD + chunk(DONE[:5])), Close()],
    "garbage": SCENARIOS["garbage"],
}


@pytest.mark.parametrize("choices", [1, 2])
@pytest.mark.parametrize("script", NOTHING.values(), ids=NOTHING)
async def test_where_there_is_no_answer_all_is_given_back(script: Script, choices: int) -> None:
    books = Books()
    async with FakeEngine(script) as engine, door(engine, books) as running:
        response = await running.chat(n=choices)
        assert response.status_code >= 400
        assert response.headers["x-ratelimit-limit-requests"] == "60", "on errors too"
        await at_rest(running, engine, books)
        assert (books.settled, len(books.records)) == ([None], 1)


async def test_a_key_that_has_nothing_left_reaches_no_engine() -> None:
    books = Books(closed=True)
    async with FakeEngine(WHOLE) as engine, door(engine, books) as running:
        response = await running.chat()
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
        assert error_of(response.content)["code"] == "rate_limit_exceeded"
        assert (engine.requests, books.settled, books.records) == ([], [], [])
        assert running.metric("stoker_requests_total", model="", status_class="4xx") == 1


async def test_a_request_for_nothing_that_is_there_costs_nothing() -> None:
    books = Books()
    async with FakeEngine(WHOLE) as engine, door(engine, books) as running:
        assert (await running.chat(model="gone")).status_code == 404
        assert (await running.chat(temperature=9)).status_code == 400
        assert (books.admitted, books.settled) == ([], [])


PROMPT = [{"role": "user", "content": "x" * 4000}]


@pytest.mark.parametrize("large", [False, True], ids=["small", "more than the server reads ahead"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_its_prompt_is_read_pays_for_the_prompt(stream: bool, large: bool) -> None:
    books = Books()
    content = "x" * (400_000 if large else 4000)
    async with FakeEngine([Hang()]) as engine, door(engine, books) as running:
        asking = asyncio.create_task(running.chat(stream=stream, messages=[{"role": "user", "content": content}]))
        await engine.until(lambda engine: len(engine.requests) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await engine.until(lambda engine: engine.gone == 1)
        await at_rest(running, engine, books)
        assert books.settled == [pytest.approx(len(content) / 4, rel=0.1)]
        assert [one.status for one in books.records] == [GONE]


async def test_a_client_that_leaves_in_mid_stream_pays_for_what_was_written() -> None:
    books = Books()
    script: Script = [Send(STREAM_HEAD + chunk(delta("a") * 40)), Hang()]
    async with FakeEngine(script) as engine, door(engine, books) as running:
        body = {"model": "m", "messages": PROMPT, "stream": True}
        async with running.client.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_raw())
        await engine.until(lambda engine: engine.gone == 1)
        await at_rest(running, engine, books)
        ((status, read, written, _),) = books.tokens
        assert (status, written) == (GONE, 40)
        assert read == pytest.approx(1000, rel=0.1)
        assert books.settled == [read + written]


@pytest.mark.parametrize("end", [[Close()], [Hang()]], ids=["close", "silence"])
async def test_an_answer_that_breaks_off_costs_what_came_of_it(end: Script) -> None:
    books = Books()
    script: Script = [Send(STREAM_HEAD + chunk(delta("a") * 40)), *end]
    limits = ProxyLimits(timeouts=Timeouts(idle=0.2))
    async with FakeEngine(script) as engine, door(engine, books, limits) as running:
        await stream_of(running, messages=PROMPT)
        await at_rest(running, engine, books)
        ((status, _, written, _),) = books.tokens
        assert (status // 100, written, books.settled) == (5, 40, [books.records[0].input_tokens + 40])


async def test_a_stream_that_our_own_end_cuts_costs_what_came_of_it() -> None:
    books = Books()
    async with (
        FakeEngine([Send(STREAM_HEAD + chunk(delta("a") * 40)), Hang()]) as engine,
        door(engine, books) as running,
    ):
        before = asyncio.all_tasks()
        body = {"model": "m", "messages": PROMPT, "stream": True}
        async with running.client.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_raw())
            for task in asyncio.all_tasks() - before:
                if "run_asgi" in repr(task) or "HttpRequest" in repr(task):  # as the server does when it cannot wait
                    task.cancel()
            await at_rest(running, engine, books)
        assert [(status, written) for status, _, written, _ in books.tokens] == [(500, 40)]
        assert books.settled == [books.records[0].input_tokens + 40]


async def test_what_was_let_in_is_settled_though_nothing_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    async with FakeEngine(WHOLE) as engine, door(engine, books) as running:

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(running.app._proxy._metrics, "begin", broken)
        assert (await running.chat()).status_code == 500
        assert (books.settled, books.records) == ([None], [])


async def test_a_bug_of_ours_is_settled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    async with FakeEngine(WHOLE) as engine, door(engine, books) as running:

        async def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(running.app._proxy._failover, "serve", broken)
        assert (await running.chat()).status_code == 500
        assert (books.settled, books.tokens) == ([None], [(500, 0, 0, 0)])
        assert running.app._proxy.queues.waiting() == {"m": 0}
        assert len(running.app._proxy.slow_readers) == 0
