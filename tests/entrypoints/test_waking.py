"""Who fits is told so even if nobody else did it: the net below the signals."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog
from sqlalchemy.exc import OperationalError
from temporalio.service import RPCError, RPCStatusCode

from entrypoints.waking import keep_waking
from stoker.domain.base import InstanceId
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.placement.reservations import Waiting
from stoker.domain.units import MIB
from stoker.temporal import TemporalInstanceCalls
from tests.builders import make_request, make_spec, write_tiny_llama
from tests.cluster import Cluster, eventually_async, temporal
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio

PENDING, RUNNING = InstanceState.PENDING, InstanceState.RUNNING
AT_ONCE = 0.001


class Rows:
    """One waits. Says who fits: each answer once, the last one from then on. An exception is raised."""

    def __init__(self, *answers: tuple[InstanceId, ...] | Exception) -> None:
        self._answers = list(answers)
        self.nobody_for = 0  # so many looks

    def waiting(self) -> Sequence[Waiting]:
        """As the ledger does."""
        self.nobody_for -= 1
        return [] if self.nobody_for >= 0 else [Waiting(request=make_request())]

    def wakeable(self) -> tuple[InstanceId, ...]:
        """As the ledger does."""
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Signals:
    """Keeps who was told. The first calls fail with these errors."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.tried: list[tuple[InstanceId, ...]] = []
        self.told: list[tuple[InstanceId, ...]] = []

    async def wake(self, instance_ids: Sequence[InstanceId]) -> None:
        """As the way to Temporal does."""
        self.tried.append(tuple(instance_ids))
        if self._errors:
            raise self._errors.pop(0)
        self.told.append(tuple(instance_ids))

    async def until_told(self, times: int = 1) -> None:
        """Returns when it has happened so often."""

        async def enough() -> bool:
            return len(self.told) >= times

        await eventually_async(enough, f"{times} times")


@asynccontextmanager
async def waking(ledger: Rows, signals: Signals) -> AsyncIterator[asyncio.Task[None]]:
    """Looks all the time, until left."""
    task = asyncio.create_task(keep_waking(ledger, signals, every=AT_ONCE))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_exactly_those_who_fit_are_told() -> None:
    signals = Signals()
    async with waking(Rows((), ("a", "c"), (), ("b",), ()), signals) as task:
        await signals.until_told(2)
        assert not task.done()
    assert signals.tried == [("a", "c"), ("b",)], "Temporal is left alone when nobody fits"
    assert task.cancelled()


async def test_nothing_is_locked_while_nobody_waits() -> None:
    rows, signals = Rows(("a",)), Signals()
    rows.nobody_for = 3
    async with waking(rows, signals):
        await signals.until_told()
    assert rows.nobody_for < 0, "the looks before it found nobody, and did not ask who fits"


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (OperationalError("SELECT 1", {}, Exception("the server closed the connection")), "pending_not_woken"),
        (ValueError("a row of another version"), "waking_crashed"),
        (KeyError("a mistake of ours"), "waking_crashed"),
    ],
)
async def test_it_goes_on_after_the_database_was_away(error: Exception, event: str) -> None:
    signals = Signals()
    with structlog.testing.capture_logs() as logged:
        async with waking(Rows(error, error, ("a",)), signals):
            await signals.until_told()
    assert [entry["event"] for entry in logged][:3] == [event, event, "pending_woken"]


@pytest.mark.parametrize("error", [RPCError("away", RPCStatusCode.UNAVAILABLE, b""), RuntimeError("no connection")])
async def test_it_goes_on_after_temporal_was_away(error: Exception) -> None:
    signals = Signals(error)
    with structlog.testing.capture_logs() as logged:
        async with waking(Rows(("a",)), signals):
            await signals.until_told()
    assert signals.tried[:2] == [("a",), ("a",)], "who fits is worked out anew, and told"
    assert [entry["event"] for entry in logged][:2] == ["pending_not_woken", "pending_woken"]


async def test_the_looks_of_several_do_not_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 200:
            raise asyncio.CancelledError

    monkeypatch.setattr("entrypoints.waking.asyncio.sleep", no_pause)
    with pytest.raises(asyncio.CancelledError):
        await keep_waking(Rows(()), Signals(), every=60.0)
    assert all(45.0 <= pause <= 75.0 for pause in pauses)
    assert len(set(pauses)) > 1


async def test_one_that_waits_runs_although_nobody_told_it_of_the_room(tmp_path: Path) -> None:
    model = ModelSource.parse(f"file:{write_tiny_llama(tmp_path / 'tiny.gguf')}")
    async with temporal() as environment, Cluster(environment.client, tmp_path) as cluster:
        await cluster.add_host(cpu_host("w1", total=1 * MIB))
        await cluster.apply(make_spec(name="tiny", model=model, replicas=2))
        waiting = await cluster.instances_in("tiny", [PENDING] * 2)
        await shown_as_pending(cluster)
        await cluster.stop_agent("w1")
        await cluster.add_host(cpu_host("w1"))  # the cluster tells nobody that there is more room, unlike the API
        task = asyncio.create_task(keep_waking(cluster.ledger, TemporalInstanceCalls(environment.client), every=0.1))
        try:
            running = await cluster.instances_in("tiny", [RUNNING] * 2)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert [one.instance_id for one in running] == [one.instance_id for one in waiting]


async def shown_as_pending(cluster: Cluster) -> None:
    """Returns when both workflows have begun to wait: until then they might find the room by themselves."""

    async def shown() -> bool:
        return (await cluster.client.count_workflows("StokerPhase = 'pending'")).count == 2

    await eventually_async(shown, "both wait")
