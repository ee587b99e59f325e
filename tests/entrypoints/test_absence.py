"""Those on a lost worker are told, again while they do not move, and nobody while too many are silent."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

import pytest
import structlog
from sqlalchemy.exc import OperationalError
from temporalio.service import RPCError, RPCStatusCode

from entrypoints.absence import Mover, keep_watch
from stoker.domain.absence import Absence
from stoker.storage.absence import Use
from tests.cluster import eventually_async

pytestmark = pytest.mark.anyio

A1, B1, A2 = Use("a", "w1"), Use("b", "w1"), Use("a", "w2")
GONE = Absence(lost=("w1",))
ALARM = Absence(held_back=("w1", "w2"), alarm="2 of 3 workers are silent at once")
AWAY = OperationalError("SELECT 1", {}, Exception("the server closed the connection"))


class Rows:
    """What each look finds; the last for ever. An exception is raised."""

    def __init__(self, *looks: Absence | Exception, uses: Sequence[Use] = ()) -> None:
        self._looks = list(looks)
        self.held = list(uses)
        self.asked: list[tuple[str, ...]] = []

    def look(self) -> Absence:
        """As `AbsenceWatch`."""
        found = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(found, Exception):
            raise found
        return found

    def silence(self, worker: str) -> float:
        """As `AbsenceWatch`."""
        return 31.4

    def uses(self, workers: Collection[str]) -> tuple[Use, ...]:
        """As `AbsenceWatch`."""
        self.asked.append(tuple(workers))
        return tuple(use for use in self.held if use.worker in workers)


class Signals:
    """Keeps who was told what. Whoever is in `away` cannot be."""

    def __init__(self) -> None:
        self.told: list[Use] = []
        self.reasons: set[str] = set()
        self.away: set[str] = set()

    async def worker_lost(self, instance_id: str, worker: str, reason: str) -> None:
        """As the way to Temporal does."""
        await asyncio.sleep(0)
        if instance_id in self.away:
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
        self.told.append(Use(instance_id, worker))
        self.reasons.add(reason)


class Steps:
    """One look after the other, so many seconds apart."""

    def __init__(self, rows: Rows) -> None:
        self.signals, self.now = Signals(), 0.0
        self._mover = Mover(rows, self.signals, clock=lambda: self.now)

    async def look(self, seconds: float = 0.0) -> list[Use]:
        """Who was told at it."""
        self.now += seconds
        self.signals.told = []
        await self._mover.look_once()
        return sorted(self.signals.told)


async def test_those_that_hold_something_there_are_told() -> None:
    steps = Steps(Rows(Absence(), GONE, uses=[A1, B1, A2]))
    assert await steps.look() == []
    assert await steps.look() == [A1, B1]
    assert steps.signals.reasons == {"w1 has not reported for 31 s"}


async def test_nobody_is_asked_for_while_nobody_is_lost() -> None:
    rows = Rows(Absence(), ALARM, uses=[A1])
    steps = Steps(rows)
    for _ in range(3):
        assert await steps.look(60) == []
    assert rows.asked == []


async def test_who_does_not_move_is_told_again_more_and_more_seldom() -> None:
    rows = Rows(GONE, uses=[A1])
    steps = Steps(rows)
    told_at = [steps.now for _ in range(100) if await steps.look(2.5)]
    assert told_at == [2.5, 7.5, 17.5, 37.5, 77.5, 137.5, 197.5]
    rows.held = []
    assert await steps.look(2.5) == []
    rows.held = [A1]  # its next incarnation came back there, say
    assert await steps.look(2.5) == [A1]


async def test_who_could_not_be_told_is_told_at_the_next_look_and_keeps_nobody_back() -> None:
    steps = Steps(Rows(GONE, uses=[A1, B1]))
    steps.signals.away = {"a"}
    with pytest.raises(RPCError):
        await steps.look()
    assert steps.signals.told == [B1]
    steps.signals.away = set()
    assert await steps.look(2.5) == [A1]


async def test_what_is_new_is_said_once() -> None:
    other = Absence(held_back=("w1", "w2", "w3"), alarm="3 of 4")
    steps = Steps(Rows(GONE, GONE, ALARM, ALARM, other, Absence(), GONE))
    with structlog.testing.capture_logs() as logged:
        for _ in range(7):
            await steps.look()
    assert [(entry["log_level"], entry["event"], entry.get("worker") or entry["workers"]) for entry in logged] == [
        ("warning", "worker_lost", "w1"),
        ("error", "workers_silent_at_once", ("w1", "w2")),
        ("error", "workers_silent_at_once", ("w1", "w2", "w3")),
        ("warning", "workers_silent_at_once_over", ("w1", "w2", "w3")),
        ("warning", "worker_lost", "w1"),
    ]


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (AWAY, "absence_not_looked_for"),
        (RPCError("away", RPCStatusCode.UNAVAILABLE, b""), "absence_not_looked_for"),
        (RuntimeError("no connection"), "absence_not_looked_for"),
        (KeyError("a mistake of ours"), "absence_watch_crashed"),
    ],
)
async def test_the_watch_goes_on_whatever_happens(error: Exception, event: str) -> None:
    signals = Signals()
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(keep_watch(Rows(error, error, GONE, uses=[A1]), signals, every=0.001))

        async def told() -> bool:
            return bool(signals.told)

        await eventually_async(told, "the instance is told")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert [entry["event"] for entry in logged][:4] == [event, event, "worker_lost", "instances_told_to_move"]


async def test_the_looks_of_several_do_not_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 100:
            raise asyncio.CancelledError

    monkeypatch.setattr("entrypoints.absence.asyncio.sleep", no_pause)
    with pytest.raises(asyncio.CancelledError):
        await keep_watch(Rows(Absence()), Signals(), every=2.5)
    assert all(2.0 <= pause <= 3.0 for pause in pauses)
    assert len(set(pauses)) > 1
