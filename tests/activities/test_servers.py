"""The endless activity: who cancels decides what happens to the process."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from temporalio.activity import ActivityCancellationDetails
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities import heartbeats, keeping
from activities.ports import MainServerSpec, ProcessKey, ProcessPhase, ProcessSpec, ProcessStartError, ProcessStatus
from activities.servers import ServerActivities
from activities.types import DrainInput, DrainResult, MainReady, ProcessEnd
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.measurements import Buffers
from stoker.domain.naming import READY_SIGNAL
from stoker.domain.units import GIB, MIB
from tests.builders import make_spec
from tests.fakes.api import make_measured, make_placement

pytestmark = pytest.mark.anyio

KEY = ProcessKey(instance_id="llama-0", incarnation=3)
SPEC = MainServerSpec(
    key=KEY, deployment="llama", spec=make_spec(), placement=make_placement(), model_path="/models/m.gguf"
)
LOADING = ProcessStatus(phase=ProcessPhase.LOADING, pid=42, progress=0.5)
READY = ProcessStatus(phase=ProcessPhase.READY, pid=42, port=4711, progress=1.0)
EXITED = ProcessStatus(phase=ProcessPhase.EXITED, pid=42, exit_code=-9, cause="killed by SIGKILL", retryable=True)

AWAY = RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")
MISSING = RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b"")


class Supervisor:
    """One process, whose statuses are those that a test puts in; it is left when nobody watches it any more."""

    def __init__(self, *statuses: ProcessStatus, error: ProcessStartError | None = None) -> None:
        self.statuses: asyncio.Queue[ProcessStatus] = asyncio.Queue()
        for status in statuses:
            self.statuses.put_nowait(status)
        self.error = error
        self.memory: MeasuredMemory | Exception | None = None
        self.killed: list[ProcessKey] = []
        self.drained: list[tuple[ProcessKey, float, float]] = []
        self.watched, self.left = asyncio.Event(), asyncio.Event()

    async def ensure_started(self, spec: ProcessSpec) -> ProcessStatus:
        """As the port says."""
        assert spec == SPEC
        if self.error is not None:
            raise self.error
        return LOADING

    async def watch(self, key: ProcessKey) -> AsyncGenerator[ProcessStatus, None]:
        """As the port says."""
        assert key == KEY
        self.watched.set()
        try:
            while True:
                status = await self.statuses.get()
                yield status
                if status.phase is ProcessPhase.EXITED:
                    return
        finally:
            self.left.set()

    async def measure(self, key: ProcessKey) -> MeasuredMemory | None:
        """As the port says."""
        assert key == KEY
        if isinstance(self.memory, Exception):
            raise self.memory
        return self.memory

    async def drain(self, key: ProcessKey, settle_seconds: float, timeout_seconds: float) -> bool:
        """As the port says."""
        self.drained.append((key, settle_seconds, timeout_seconds))
        return timeout_seconds > 10

    async def kill(self, key: ProcessKey) -> None:
        """As the port says."""
        await asyncio.sleep(0)
        self.killed.append(key)


class Owner:
    """The instance's workflow as a client reaches it: `errors` are what its next signals meet."""

    def __init__(self, *errors: RPCError, closed: bool | RPCError = False) -> None:
        self.errors = list(errors)
        self.closed = closed
        self.told: list[MainReady] = []
        self.asked = asyncio.Event()

    def get_workflow_handle(self, workflow_id: str, *, run_id: str | None = None) -> "Owner":
        """Only its own."""
        assert (workflow_id, run_id) == ("test", "test-run")
        return self

    async def signal(self, name: str, ready: MainReady) -> None:
        """Is told."""
        assert name == READY_SIGNAL
        if self.errors:
            raise self.errors.pop(0)
        self.told.append(ready)
        self.asked.set()

    async def describe(self, **_: object) -> SimpleNamespace:
        """Whether it is over."""
        if isinstance(self.closed, RPCError):
            raise self.closed
        return SimpleNamespace(close_time=datetime.now(UTC) if self.closed else None)


class Attempt:
    """One attempt of serve_main."""

    def __init__(self, supervisor: Supervisor, owner: Owner | None = None) -> None:
        self.supervisor, self.owner = supervisor, owner or Owner()
        self.environment = ActivityEnvironment(cast(Client, self.owner))
        self.beats: list[Any] = []
        self.environment.on_heartbeat = lambda *details: self.beats.append(details[0])

    async def run(self) -> ProcessEnd:
        """To its end."""
        end: ProcessEnd = await self.environment.run(ServerActivities(self.supervisor).serve_main, SPEC)
        return end

    async def cancelled(self, details: ActivityCancellationDetails) -> None:
        """Cancels it with these details once it watches, and waits until it is over."""
        running = asyncio.create_task(self.run())
        async with asyncio.timeout(10):
            await self.supervisor.watched.wait()
            self.environment.cancel(details)
            with pytest.raises(asyncio.CancelledError):
                await running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(keeping, "_SIGNAL_RETRY_SECONDS", 0.001)


# --- who cancels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "details",
    [
        ActivityCancellationDetails(cancel_requested=True),
        ActivityCancellationDetails(cancel_requested=True, worker_shutdown=True),
    ],
)
async def test_the_workflow_wants_it_gone(details: ActivityCancellationDetails) -> None:
    attempt = Attempt(Supervisor())
    await attempt.cancelled(details)
    assert attempt.supervisor.killed == [KEY], "and only then the activity is over"
    assert attempt.supervisor.left.is_set()


@pytest.mark.parametrize(
    "details",
    [
        ActivityCancellationDetails(),
        ActivityCancellationDetails(worker_shutdown=True),
        ActivityCancellationDetails(paused=True),
        ActivityCancellationDetails(reset=True),
        ActivityCancellationDetails(timed_out=True),
        # What a stale attempt is told after Temporal was away for longer than the heartbeat's time-out:
        ActivityCancellationDetails(timed_out=True, not_found=True),
        ActivityCancellationDetails(worker_shutdown=True, not_found=True),
    ],
)
@pytest.mark.parametrize("closed", [True, False])
async def test_nobody_wants_it_gone(details: ActivityCancellationDetails, closed: bool) -> None:
    attempt = Attempt(Supervisor(), Owner(closed=closed))
    await attempt.cancelled(details)
    assert attempt.supervisor.killed == []
    assert attempt.supervisor.left.is_set(), "it was let go of"


@pytest.mark.parametrize(
    ("closed", "killed"),
    [
        (True, True),  # its workflow was terminated, say
        (MISSING, True),
        (False, False),  # an SRE reset the activity: the next attempt adopts
        (AWAY, False),  # nobody knows: whoever comes next decides
    ],
)
async def test_an_attempt_that_is_stale_asks_its_workflow(closed: bool | RPCError, killed: bool) -> None:
    attempt = Attempt(Supervisor(), Owner(closed=closed))
    await attempt.cancelled(ActivityCancellationDetails(not_found=True))
    assert bool(attempt.supervisor.killed) is killed


async def test_without_a_word_why_it_is_let_go_of() -> None:
    attempt = Attempt(Supervisor())
    running = asyncio.create_task(attempt.run())
    await attempt.supervisor.watched.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert attempt.supervisor.killed == []


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_how_it_ended_by_itself_is_the_result() -> None:
    attempt = Attempt(Supervisor(LOADING, READY, EXITED))
    assert await attempt.run() == ProcessEnd(exit_code=-9, cause="killed by SIGKILL", retryable=True)
    assert attempt.supervisor.killed == []


async def test_a_process_that_had_ended_before_is_not_started_again() -> None:
    lasting = EXITED.model_copy(update={"retryable": False})
    assert await Attempt(Supervisor(lasting)).run() == ProcessEnd(
        exit_code=-9, cause="killed by SIGKILL", retryable=False
    )


@pytest.mark.parametrize("retryable", [True, False])
async def test_one_that_cannot_be_started(retryable: bool) -> None:
    error = ProcessStartError("engine_not_runnable", "llama-server: not found", retryable=retryable)
    end = await Attempt(Supervisor(error=error)).run()
    assert end == ProcessEnd(
        cause="could not be started: llama-server: not found",
        retryable=retryable,
        code="engine_not_runnable",
        worker=SPEC.placement.worker,
    )


async def test_heartbeats_show_the_process() -> None:
    attempt = Attempt(Supervisor(LOADING))
    running = asyncio.create_task(attempt.run())
    async with asyncio.timeout(10):
        while LOADING not in attempt.beats:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        attempt.supervisor.statuses.put_nowait(READY)
        while attempt.beats[-1] != READY:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    attempt.supervisor.statuses.put_nowait(EXITED)
    await running
    beats = len(attempt.beats)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert len(attempt.beats) == beats


# --- ready ------------------------------------------------------------------------------------------------------------


async def told(
    *statuses: ProcessStatus, owner: Owner | None = None, memory: MeasuredMemory | Exception | None = None
) -> list[MainReady]:
    """What the instance was told, at the end of a process that went through these and takes `memory`."""
    attempt = Attempt(Supervisor(*statuses), owner)
    attempt.supervisor.memory = memory
    running = asyncio.create_task(attempt.run())
    async with asyncio.timeout(10):
        await attempt.owner.asked.wait()
    attempt.supervisor.statuses.put_nowait(EXITED)
    await running
    return attempt.owner.told


async def test_the_instance_is_told_once_that_it_answers() -> None:
    (ready,) = await told(LOADING, READY, READY.model_copy(update={"progress": 0.9}), READY)
    assert (ready.incarnation, ready.port, ready.pid, ready.adopted) == (3, 4711, 42, False)
    assert ready.load_seconds > 0


async def test_the_instance_is_told_what_it_took() -> None:
    with capture_logs() as logs:
        (ready,) = await told(READY, memory=make_measured())
    assert ready.memory == make_measured()
    assert logs == [], "it took no more than was estimated"


async def test_where_it_took_more_than_was_estimated_that_is_said() -> None:
    took = Buffers(weights=4 * GIB, cache=1 * GIB, compute=500 * MIB)
    with capture_logs() as logs:
        assert len(await told(READY, memory=make_measured(buffers=(("CUDA0", took),)))) == 1
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("estimate_exceeded", "warning")
    assert (entry["instance"], entry["device"], entry["error"]) == ("llama-0", "gpu0", "+3.7%")
    assert (entry["estimated"], entry["measured"]) == (5 * GIB + 300 * MIB, 5 * GIB + 500 * MIB)
    assert "`stoker describe llama`" in entry["remedy"]


@pytest.mark.parametrize("error", [OverflowError("int too large"), KeyError("gpu0"), ValueError("no number")])
async def test_where_it_cannot_be_measured_the_instance_is_told_all_the_same(error: Exception) -> None:
    with capture_logs() as logs:
        (ready,) = await told(READY, memory=error)
    assert (ready.port, ready.memory) == (4711, None)
    (entry,) = logs
    assert (entry["event"], entry["instance"], entry["error"]) == ("memory_not_measured", "llama-0", repr(error))


async def test_whoever_adopts_it_tells_it_again_and_does_not_know_how_long_it_loaded() -> None:
    (ready,) = await told(READY.model_copy(update={"adopted": True}))
    assert (ready.adopted, ready.load_seconds) == (True, 0.0)


async def test_while_temporal_is_away_the_telling_is_tried_again() -> None:
    assert len(await told(READY, owner=Owner(AWAY, AWAY))) == 1


async def test_an_instance_that_is_over_need_not_be_told() -> None:
    attempt = Attempt(Supervisor(READY, EXITED), Owner(MISSING))
    assert (await attempt.run()).exit_code == -9
    assert attempt.owner.told == []


# --- the short ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timeout", "idle"), [(30.0, True), (5.0, False)])
async def test_draining(timeout: float, idle: bool) -> None:
    supervisor = Supervisor()
    request = DrainInput(instance_id="llama-0", incarnation=3, settle_seconds=1.0, timeout_seconds=timeout)
    assert await ActivityEnvironment().run(ServerActivities(supervisor).drain_main, request) == DrainResult(idle=idle)
    assert supervisor.drained == [(KEY, 1.0, timeout)]
