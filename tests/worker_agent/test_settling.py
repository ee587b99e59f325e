"""An agent that was away for long first ends what is no longer its own, and only then says that it is there."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import cast

import pytest
import structlog

from activities.ports import ProcessKey, ProcessPhase, ProcessStatus
from stoker.domain.reports import HeldIncarnation, JoinAnswer, ReportAnswer, WorkerReport
from tests.builders import make_worker
from tests.cluster import eventually
from tests.worker_agent.conftest import OpenSupervisor, make_server
from worker_agent import heartbeat as module
from worker_agent.control_api import ControlApi, ServerAwayError
from worker_agent.heartbeat import Heartbeat
from worker_agent.presence import Presence
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor

pytestmark = pytest.mark.anyio

HELD, LOST = (ProcessKey(instance_id=name, incarnation=1) for name in ("held-1", "lost-1"))
Told = tuple[bool, list[str], int | None]


class Api:
    """A server that says what is held, and remembers what it was told. Each answer has a version of its own."""

    def __init__(self, *held: ProcessKey) -> None:
        self.held = held
        self.reports: list[WorkerReport] = []
        self.joins: list[WorkerReport] = []
        self.away = 0  # so many reports do not reach it

    async def join(self, report: WorkerReport) -> JoinAnswer:
        """As ControlApi's."""
        self.joins.append(report)
        return JoinAnswer(credential="c", engine_secret="e")

    async def report(self, report: WorkerReport) -> ReportAnswer:
        """As ControlApi's."""
        self.away -= 1
        if self.away >= 0:
            raise ServerAwayError("away")
        self.reports.append(report)
        held = tuple(HeldIncarnation(instance_id=key.instance_id, incarnation=key.incarnation) for key in self.held)
        return ReportAnswer(held=held, version=100 + len(self.reports))

    @property
    def told(self) -> list[Told]:
        """Whether it was settled, what ran, and which answer it had seen: of each report."""
        return [(one.settled, [item.instance_id for item in one.running or ()], one.answered) for one in self.reports]


class Silence(Presence):
    """One that lasted as long as the test says."""

    def __init__(self) -> None:
        super().__init__(None, 30.0)
        self.long = True

    def taken(self) -> None:
        self.long = False

    @property
    def was_lost(self) -> bool:
        return self.long


class Stubborn:
    """A supervisor whose process does not end before it is told to."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.reaps = 0

    def statuses(self) -> dict[ProcessKey, ProcessStatus]:
        """As HostSupervisor's."""
        phase = ProcessPhase.EXITED if self.ends.is_set() else ProcessPhase.READY
        return {LOST: ProcessStatus(phase=phase)}

    async def reap(self, keep: Collection[ProcessKey], among: object = None) -> tuple[ProcessKey, ...]:
        """As HostSupervisor's."""
        self.reaps += 1
        await self.ends.wait()
        return (LOST,)


def beating(api: Api, supervisor: object, presence: Presence | None) -> Heartbeat:
    return Heartbeat(
        cast(ControlApi, api),
        lambda: make_worker(name="box"),
        cast(HostSupervisor, supervisor),
        ProgressBoard(),
        presence,
    )


async def test_after_a_long_silence_what_is_given_to_others_ends_first(
    open_fake: OpenSupervisor, tmp_path: Path
) -> None:
    api, silence = Api(HELD), Silence()
    async with open_fake() as supervisor:
        for key in (HELD, LOST):
            await supervisor.ensure_started(make_server(tmp_path / "model.gguf", key))
        heartbeat = beating(api, supervisor, silence)
        await heartbeat.report_once()
        assert list(supervisor.statuses()) == [HELD]
        assert api.told == [(False, ["held-1", "lost-1"], None), (True, ["held-1"], 101)]
        await heartbeat.report_once()
        assert api.told[2:] == [(True, ["held-1"], 102)], "once is enough"
        silence.long = True
        await heartbeat.report_once()
        assert [settled for settled, _, _ in api.told[3:]] == [False, True]
        await supervisor.kill(HELD)


async def test_without_a_silence_one_report_is_enough(open_fake: OpenSupervisor, tmp_path: Path) -> None:
    api = Api(HELD)
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(tmp_path / "model.gguf", HELD))
        await beating(api, supervisor, None).report_once()
        assert api.told == [(True, ["held-1"], None)]
        await supervisor.kill(HELD)


async def test_one_that_has_nothing_is_there_at_once_however_long_it_was_away(open_fake: OpenSupervisor) -> None:
    """As one is that joins for the first time: nothing here can have been given to others."""
    api = Api()
    async with open_fake() as supervisor:
        with structlog.testing.capture_logs() as logged:
            await beating(api, supervisor, Silence()).report_once()
    assert api.told == [(True, [], None)]
    assert logged == []


async def test_a_silence_that_goes_on_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that is allowed for killing begins with the answer that says what to kill."""
    monkeypatch.setattr(module, "REAP_SECONDS", 0.01)
    api, supervisor = Api(), Stubborn()
    api.away = 3
    heartbeat = beating(api, supervisor, Silence())
    for _ in range(3):
        with pytest.raises(ServerAwayError):
            await heartbeat.report_once()
    assert supervisor.reaps == 0
    await heartbeat.report_once()
    assert api.told == [(False, ["lost-1"], None)], "it is told what ends, and not that the agent is settled"
    supervisor.ends.set()
    await heartbeat.report_once()
    assert api.told[1:] == [(False, [], 101), (True, [], 102)]


async def test_what_cannot_be_killed_is_told_and_keeps_the_rest_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAP_SECONDS", 0.01)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)
    api, supervisor = Api(), Stubborn()
    with structlog.testing.capture_logs() as logged:
        await beating(api, supervisor, Silence()).report_once()
    assert api.told == [(False, ["lost-1"], None), (True, ["lost-1"], 101)]
    assert [entry["event"] for entry in logged] == ["away_for_long", "process_not_ended"]
    supervisor.ends.set()


async def test_reports_go_on_while_a_process_is_slow_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAP_SECONDS", 0.01)
    api, supervisor = Api(), Stubborn()
    heartbeat = beating(api, supervisor, None)
    for _ in range(3):
        await heartbeat.report_once()
    assert api.told == [(True, ["lost-1"], None), (True, ["lost-1"], 101), (True, ["lost-1"], 102)]
    with structlog.testing.capture_logs() as logged:
        supervisor.ends.set()
        await eventually(lambda: logged, lambda: "nothing was logged")
    assert logged[0]["event"] == "processes_reaped"
    await heartbeat.report_once()
    assert api.told[3:] == [(True, [], 103)]


async def test_one_that_joins_with_processes_asks_what_they_hold_before_it_is_there() -> None:
    api, supervisor = Api(LOST), Stubborn()
    heartbeat = beating(api, supervisor, None)
    await heartbeat.join()
    assert [(report.settled, len(report.running or ())) for report in api.joins] == [(False, 1)]
    await heartbeat.report_once()
    assert [settled for settled, _, _ in api.told] == [False, True]
    supervisor.ends.set()
    await heartbeat.join()
    assert [report.settled for report in api.joins] == [False, True]
