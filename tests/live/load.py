"""A load at a constant pace, however long answers take, and all that came of it."""

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.live.client import Reply, ask
from tests.live.questions import BrokenOffError, Question, Said, Tokens, WrongAnswerError

DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Key:
    """A key of the API under the name that the run calls it by. Empty `secret`: none is sent."""

    name: str
    id: str
    secret: str

    def headers(self) -> dict[str, str]:
        """What opens the door."""
        return {"authorization": f"Bearer {self.secret}"} if self.secret else {}


@dataclass(frozen=True)
class Turn:
    """One place in the round of requests: what is asked, with which key. `may_refuse`: the key's limit may."""

    question: Question
    key: Key
    may_refuse: bool = False


@dataclass(frozen=True)
class Asked:
    """One request that is over; times are of time.monotonic()."""

    turn: Turn
    start: float
    end: float
    first_byte: float | None
    status: int  # 0: nothing came
    tokens: Tokens | None  # of a right answer that speaks of them
    refused: bool = False  # by its key's limit, as it may be
    wrong: str = ""  # why it is not right; empty: it is
    lost: bool = False  # no whole answer came, one that broke off, or a 5xx

    @property
    def right(self) -> bool:
        """Whether its client has what it must have."""
        return not self.wrong


class Load:
    """Asks from a thread of its own while the block lasts, and waits at its end for the last answer."""

    def __init__(self, address: tuple[str, int], turns: Sequence[Turn], rate: float) -> None:
        """`rate`: requests a second."""
        self._address, self._turns, self._rate = address, turns, rate
        self._expected: dict[str, str] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        asyncio.run(self._learn())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(DEADLINE_SECONDS + 10)

    def asked(self) -> list[Asked]:
        """All that are over so far."""
        with self._lock:
            return list(self._asked)

    async def _learn(self) -> None:
        """Asks each question once, alone: so must it be answered from then on. Raises WrongAnswerError."""
        for turn in self._turns:
            if turn.question.engine and turn.question.name not in self._expected:
                first = await self._reply(turn)
                self._expected[turn.question.name] = turn.question.judged(first).text
                self._keep(turn, first)
                self._keep(turn, await self._reply(turn))

    async def _run(self) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for turn in itertools.cycle(self._turns):
                if self._over.is_set():
                    return
                tasks.create_task(self._ask(turn))
                due += 1 / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, turn: Turn) -> None:
        self._keep(turn, await self._reply(turn))

    async def _reply(self, turn: Turn) -> Reply:
        question = turn.question
        return await ask(
            self._address,
            question.method,
            question.path,
            headers=turn.key.headers(),
            body=question.body,
            seconds=DEADLINE_SECONDS,
        )

    def _keep(self, turn: Turn, reply: Reply) -> None:
        said, wrong, broken_off = Said("", None), "", False
        refused = turn.may_refuse and reply.status == 429 and b'"code": "rate_limit_exceeded"' in reply.body
        if not refused:
            try:
                said = turn.question.judged(reply)
                expected = self._expected.get(turn.question.name, said.text)
                if said.text != expected:
                    wrong = f"{said.text!r}, not {expected!r}"
            except WrongAnswerError as error:
                wrong, broken_off = str(error), isinstance(error, BrokenOffError)
        asked = Asked(
            turn,
            reply.start,
            reply.end,
            reply.first_byte,
            reply.status,
            said.tokens,
            refused=refused,
            wrong=wrong,
            lost=bool(reply.failure) or reply.status >= 500 or broken_off,
        )
        with self._lock:
            self._asked.append(asked)
