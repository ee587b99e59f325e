"""A constant load of short streamed chat requests, and what each of them met."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

import httpx

RATE = 2.0  # requests a second
DEADLINE_SECONDS = 30.0
FAST_SECONDS = 2.0
LATER = 2 * DEADLINE_SECONDS  # the client's own limit is the deadline of the whole request
PROMPT = "Count from one to ten."
MAX_TOKENS = 6


class End(StrEnum):
    """How a request ended."""

    RIGHT = "right"
    WRONG = "wrong"  # whole, and not what the model says alone
    CUT = "cut"  # an answer had begun, and ended before its end
    REFUSED = "refused"  # a status that is an error
    UNREACHABLE = "unreachable"  # the API itself did not answer
    HUNG = "hung"  # nothing more came until the client's own deadline


@dataclass(frozen=True)
class Asked:
    """One request; times are of time.monotonic()."""

    start: float
    end: float
    how: End
    detail: str = ""

    @property
    def lost(self) -> bool:
        """Whether its user has no right answer."""
        return self.how is not End.RIGHT


class Load:
    """Asks at a fixed pace, however long answers take, from a thread of its own."""

    def __init__(self, url: str, key: str, model: str, expected: str, *, rate: float = RATE) -> None:
        self._url, self._key, self._model, self._expected, self._rate = url, key, model, expected, rate
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._open: dict[int, float] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(DEADLINE_SECONDS + 10)

    def asked(self, since: float) -> list[Asked]:
        """All that have ended and were under way or began at `since` or later, by their start."""
        with self._lock:
            return sorted((one for one in self._asked if one.end >= since), key=lambda one: one.start)

    def oldest_open(self) -> float | None:
        """When the oldest of those that are under way began; None: none is."""
        with self._lock:
            return min(self._open.values(), default=None)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(base_url=self._url, limits=limits, timeout=LATER, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            due, number = time.monotonic(), 0
            while not self._over.is_set():
                tasks.create_task(self._ask(client, number))
                number += 1
                due += 1 / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        start = time.monotonic()
        with self._lock:
            self._open[number] = start
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                how, detail = await self._answer(client)
        except TimeoutError:
            how, detail = End.HUNG, ""
        with self._lock:
            del self._open[number]
            self._asked.append(Asked(start, time.monotonic(), how, detail))

    async def _answer(self, client: httpx.AsyncClient) -> tuple[End, str]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": PROMPT}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {self._key}"}
        said, finished = "", False
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    told = json.loads(await answer.aread())["error"]
                    return End.REFUSED, f"{answer.status_code} {told.get('code')}"
                async for line in answer.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return End.CUT, str(event["error"].get("code"))
                    choice = event["choices"][0] if event.get("choices") else {}
                    said += choice.get("delta", {}).get("content") or ""
                    finished = finished or bool(choice.get("finish_reason"))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return End.UNREACHABLE, type(error).__name__
        except (httpx.HTTPError, ValueError) as error:
            return End.CUT, f"{type(error).__name__}: {error}"
        if not finished:
            return End.CUT, "no finish"
        return (End.RIGHT, "") if said == self._expected else (End.WRONG, said)


@dataclass(frozen=True)
class Outage:
    """What users saw of a fault; seconds are from the fault on."""

    lost: int
    cut: int  # of the lost, those that had an answer begun
    refused: int
    hung: int  # not told within FAST_SECONDS that they would fail
    wrong: int
    failing_fast: float | None  # from when on nobody waited long for an error; None: nobody failed
    answering: float | None  # when the first was answered rightly after the last that failed; None: not yet
    taking: float | None  # when that first one was asked: what is left is the engine's own time
    slowest: float  # the longest wait for a right answer


def outage(asked: list[Asked], fault: float) -> Outage:
    """What `asked`, all requests that were under way at `fault` or began later, say about it."""
    lost = [one for one in asked if one.lost]
    waits = [one.end - max(one.start, fault) for one in lost]
    slow = [one.end - fault for one, wait in zip(lost, waits, strict=True) if wait > FAST_SECONDS]
    first = min((one.end - fault for one in lost), default=None)
    right = [one for one in asked if not one.lost]
    last = max((one.start for one in lost), default=None)
    after = [one for one in right if last is None or one.start > last]
    first_right = min(after, key=lambda one: one.end, default=None)
    return Outage(
        lost=len(lost),
        cut=sum(one.how is End.CUT for one in lost),
        refused=sum(one.how in (End.REFUSED, End.UNREACHABLE) for one in lost),
        hung=len(slow),
        wrong=sum(one.how is End.WRONG for one in lost),
        failing_fast=max(slow, default=first),
        answering=None if first_right is None else 0.0 if last is None else first_right.end - fault,
        taking=None if first_right is None else 0.0 if last is None else first_right.start - fault,
        slowest=max((one.end - one.start for one in right), default=0.0),
    )
