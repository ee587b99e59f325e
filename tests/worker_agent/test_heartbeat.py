"""Reports, and what follows from their answers: with the real API, and with one that answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from activities.ports import ProcessKey, ProcessPhase
from entrypoints.concurrency import first_of
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.placement.types import Placement
from stoker.domain.reports import JoinAnswer, ReportAnswer, WorkerReport
from stoker.domain.statuses import Progress
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import JOIN_TOKEN, Api, serving_api
from tests.builders import make_request, make_spec, make_worker
from tests.worker_agent.conftest import OpenSupervisor, make_server, reached
from worker_agent import heartbeat as module
from worker_agent.control_api import ControlApi, JoinRefusedError, NotJoinedError, ServerAwayError
from worker_agent.file_records import FileRecords
from worker_agent.heartbeat import Heartbeat
from worker_agent.hub_cache import CachedRepo
from worker_agent.progress import ProgressBoard
from worker_agent.stored_files import StoredFiles
from worker_agent.supervisor import HostSupervisor

pytestmark = pytest.mark.anyio

BOX = make_worker(name="box")
HELD, LOST, YOUNG = (ProcessKey(instance_id=name, incarnation=1) for name in ("held-1", "lost-1", "young-1"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "LEAST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "NAME_TAKEN_SECONDS", 0.01)


# --- with the real API ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def joined(tmp_path: Path, supervisor: HostSupervisor) -> AsyncIterator[tuple[Api, Heartbeat]]:
    """A real API, and the heartbeat of a worker that has joined it."""
    database = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(database)
    async with serving_api(database) as api:
        control = ControlApi(api.url, "box", JOIN_TOKEN, tmp_path / "identity.json")
        heartbeat = Heartbeat(control, lambda: BOX, supervisor, ProgressBoard())
        await heartbeat.join()
        yield api, heartbeat
        await control.close()
    database.close()


def claim(api: Api, instance_id: str) -> None:
    """Claims for the instance's first incarnation, on the worker."""
    request = make_request(instance_id=instance_id, spec=make_spec(devices=(("box", "gpu0"),)))
    assert isinstance(api.context.ledger.place(request), Placement)


async def test_processes_without_claims_end_and_those_with_claims_go_on(
    open_fake: OpenSupervisor, tmp_path: Path
) -> None:
    async with open_fake() as supervisor, joined(tmp_path, supervisor) as (api, heartbeat):
        for key in (HELD, LOST):
            await supervisor.ensure_started(make_server(tmp_path / "model.gguf", key))
        claim(api, HELD.instance_id)
        with structlog.testing.capture_logs() as logged:
            await heartbeat.report_once()
        assert list(supervisor.statuses()) == [HELD]
        assert [entry["processes"] for entry in logged if entry["event"] == "processes_reaped"] == [["lost-1.1.main"]]
        api.context.ledger.release(HELD.instance_id)
        await heartbeat.report_once()
        assert supervisor.statuses() == {}


async def test_one_that_was_started_after_the_question_is_not_judged_by_its_answer(
    open_fake: OpenSupervisor, tmp_path: Path
) -> None:
    async with open_fake() as supervisor, joined(tmp_path, supervisor) as (_, heartbeat):
        asked = asyncio.create_task(heartbeat.report_once())
        await asyncio.sleep(0)  # the question is on its way
        await supervisor.ensure_started(make_server(tmp_path / "model.gguf", YOUNG))
        await asked
        assert list(supervisor.statuses()) == [YOUNG]
        await heartbeat.report_once()
        assert supervisor.statuses() == {}


async def test_how_far_models_have_loaded_is_shown(open_fake: OpenSupervisor, stage: Path, tmp_path: Path) -> None:
    board = ProgressBoard()
    async with open_fake() as supervisor:
        await supervisor.ensure_started(make_server(tmp_path / "model.gguf", YOUNG))
        heartbeat = Heartbeat(cast(ControlApi, None), lambda: BOX, supervisor, board)
        watching = asyncio.create_task(heartbeat.watch_loading())
        async with asyncio.timeout(30):
            await board.changed()
        assert board.current()[YOUNG.instance_id].total == 1000
        (stage / "ready").touch()
        await reached(supervisor, ProcessPhase.READY, YOUNG)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await supervisor.kill(YOUNG)


# --- with an API that answers as it is told ---------------------------------------------------------------------------

Outcome = Exception | None


class ScriptedApi:
    """A ControlApi whose calls end as `outcomes` say, one by one (None: well); then it waits for ever."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes: list[Outcome] = list(outcomes)
        self.calls: list[str] = []
        self.reports: list[WorkerReport] = []
        self.done = asyncio.Event()

    async def join(self, report: WorkerReport) -> JoinAnswer:
        """As ControlApi's."""
        await self._next("join", report)
        return JoinAnswer(credential="c", engine_secret="e")

    async def report(self, report: WorkerReport) -> ReportAnswer:
        """As ControlApi's."""
        await self._next("report", report)
        return ReportAnswer(held=())

    async def _next(self, call: str, report: WorkerReport) -> None:
        if not self.outcomes:
            await asyncio.Event().wait()
        self.calls.append(call)
        self.reports.append(report)
        if (outcome := self.outcomes.pop(0)) is not None:
            raise outcome
        if not self.outcomes:
            self.done.set()


class NoProcesses:
    """A supervisor of nothing."""

    def statuses(self) -> dict[ProcessKey, object]:
        """None."""
        return {}

    async def reap(self, keep: Sequence[ProcessKey], among: object = None) -> tuple[ProcessKey, ...]:
        """None."""
        return ()


async def lived_through(
    api: ScriptedApi, board: ProgressBoard, what: Callable[[Heartbeat], Coroutine[Any, Any, None]]
) -> None:
    """Runs `what` until the script is over or it raises."""
    heartbeat = Heartbeat(cast(ControlApi, api), lambda: BOX, cast(HostSupervisor, NoProcesses()), board)
    async with asyncio.timeout(30):
        await first_of(what(heartbeat), api.done.wait())


async def test_who_is_revoked_is_told_with_each_answer() -> None:
    told: list[list[str]] = []

    class Revoking(ScriptedApi):
        async def report(self, report: WorkerReport) -> ReportAnswer:
            answer = await super().report(report)
            return answer.model_copy(update={"revoked": ("a", "b") if len(self.reports) == 2 else ()})

    async def tell(serials: Collection[str]) -> None:
        told.append(list(serials))

    api = Revoking(None, None, None)
    nothing = cast(HostSupervisor, NoProcesses())
    heartbeat = Heartbeat(cast(ControlApi, api), lambda: BOX, nothing, ProgressBoard(), on_revoked=tell)
    for _ in range(3):
        await heartbeat.report_once()
    assert told == [[], ["a", "b"], []]


async def test_files_are_told_until_a_report_was_taken_and_again_after_joining(tmp_path: Path) -> None:
    records = FileRecords()
    cached = CachedRepo(tmp_path, "acme/tiny", "0" * 40)
    cached.blobs.mkdir(parents=True)
    cached.blob("a" * 64).write_bytes(b"GGUF")
    file = ModelFile(path="m.gguf", size=4, sha256="a" * 64)
    cached.link(file, file.sha256)
    model = ModelFiles(source=ModelSource.parse("hf:acme/tiny"), revision="0" * 40, files=(file,))
    records.wanted(model, user="llama-1", missing=["m.gguf"])
    stored = StoredFiles(tmp_path, records, live=lambda: (), coming=lambda: ())
    api = ScriptedApi(ServerAwayError("away"), None, None, None, None)
    nothing = cast(HostSupervisor, NoProcesses())
    heartbeat = Heartbeat(cast(ControlApi, api), lambda: BOX, nothing, ProgressBoard(), files=stored)
    with pytest.raises(ServerAwayError):
        await heartbeat.report_once()
    await heartbeat.report_once()
    await heartbeat.report_once()
    await heartbeat.join()
    await heartbeat.report_once()
    told = [[file.model for file in report.files] if report.files is not None else None for report in api.reports]
    assert told == [[model.key], [model.key], None, None, [model.key]]


AWAY, REFUSED = ServerAwayError("away"), JoinRefusedError("wrong join token")
FORGOTTEN, REPLACED = NotJoinedError("forgotten"), NotJoinedError("another agent has joined", replaced=True)


async def test_joining_waits_for_the_server() -> None:
    api = ScriptedApi(AWAY, AWAY, None)
    with structlog.testing.capture_logs() as logged:
        await lived_through(api, ProgressBoard(), Heartbeat.join)
    assert api.calls == ["join"] * 3
    assert [entry["event"] for entry in logged] == ["waiting_for_server", "waiting_for_server", "joined"]


async def test_joining_does_not_wait_for_a_token_to_turn_right() -> None:
    with pytest.raises(JoinRefusedError, match="wrong join token"):
        await lived_through(ScriptedApi(AWAY, REFUSED, None), ProgressBoard(), Heartbeat.join)


@pytest.mark.parametrize(
    ("outcomes", "calls"),
    [
        ([None, None], ["report", "report"]),
        ([AWAY, AWAY, None], ["report", "report", "report"]),
        ([FORGOTTEN, None, None], ["report", "join", "report"]),
        ([FORGOTTEN, AWAY, None, None], ["report", "join", "join", "report"]),
        ([FORGOTTEN, None, FORGOTTEN, None, None], ["report", "join", "report", "join", "report"]),
        ([REPLACED, None, None], ["report", "join", "report"]),
        # the later of two agents keeps the name that both were given
        ([REPLACED, None, REPLACED, REPLACED, None], ["report", "join", "report", "report", "report"]),
    ],
)
async def test_reporting_goes_on_whatever_the_server_says(
    outcomes: list[Outcome], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_SECONDS", 0.01)
    api = ScriptedApi(*outcomes)
    await lived_through(api, ProgressBoard(), Heartbeat.run)
    assert api.calls == calls


async def test_a_server_that_takes_us_no_more_ends_the_agent() -> None:
    with pytest.raises(JoinRefusedError):
        await lived_through(ScriptedApi(None, FORGOTTEN, REFUSED), _hurrying(), Heartbeat.run)


def _hurrying() -> ProgressBoard:
    """A board that always has news."""

    class Board(ProgressBoard):
        async def changed(self) -> None:
            return

    return Board()


async def test_that_room_was_freed_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_SECONDS", 3600.0)
    api, board = ScriptedApi(None, None), ProgressBoard()

    async def run(heartbeat: Heartbeat) -> None:
        asyncio.get_running_loop().call_later(0.02, board.touch)
        await heartbeat.run()

    await lived_through(api, board, run)
    assert api.calls == ["report", "report"]


async def test_progress_is_reported_at_once_and_not_at_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_SECONDS", 3600.0)
    api, board = ScriptedApi(None, None), ProgressBoard()

    async def run(heartbeat: Heartbeat) -> None:
        asyncio.get_running_loop().call_later(0.02, board.show, "llama-1", Progress(done=1, total=2))
        await heartbeat.run()

    await lived_through(api, board, run)
    assert [sorted(report.progress) for report in api.reports] == [[], ["llama-1"]]
    assert [report.worker for report in api.reports] == [BOX, BOX]
