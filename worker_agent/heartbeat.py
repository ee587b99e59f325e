"""The agent's report: every few seconds, and at once when progress is made. Its answer says what may run here.

After a silence so long that the server may have given its instances to others (`Presence`), the agent is not settled:
it reports only to learn what it still holds, ends everything else, and then reports that it is there again.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

import structlog

from activities.ports import ProcessKey, ProcessPhase
from stoker.domain.reports import REPORT_EVERY_SECONDS, HeldIncarnation, ReportAnswer, WorkerReport
from stoker.domain.statuses import Progress
from stoker.domain.workers import Worker
from worker_agent.control_api import ControlApi, NotJoinedError, ServerAwayError
from worker_agent.presence import Presence
from worker_agent.progress import ProgressBoard
from worker_agent.stored_files import StoredFiles
from worker_agent.supervisor import HostSupervisor

log = structlog.get_logger()

LEAST_PAUSE_SECONDS = 0.25
"""Progress is reported no more often than this."""

REAP_SECONDS = REPORT_EVERY_SECONDS
"""So long a report waits for processes to end. One that takes longer to kill ends while reports go on."""

SETTLE_SECONDS = 10.0
"""After this, what cannot be killed keeps the agent from nothing else: it is still reported as running, and what it
claimed is not given to others."""

RETRY_SECONDS = 1.0
NAME_TAKEN_SECONDS = 30.0


class Heartbeat:
    """Tells the API how the worker is, and ends processes that hold no claims any more."""

    def __init__(
        self,
        api: ControlApi,
        look: Callable[[], Worker],
        supervisor: HostSupervisor,
        board: ProgressBoard,
        presence: Presence | None = None,
        on_revoked: Callable[[Collection[str]], Awaitable[None]] | None = None,
        files: StoredFiles | None = None,
    ) -> None:
        """`look` reads the worker's inventory now. `presence` None: it was never away.

        `on_revoked` is told with each answer whose certificates hold no more. `files`: the models on this host's disk;
        None: they are not told of.
        """
        self._api, self._look, self._supervisor, self._board = api, look, supervisor, board
        self._presence = presence or Presence(None, math.inf)
        self._on_revoked, self._files = on_revoked, files
        self._joined_again = False
        self._is_settled = True  # all that runs here may, as far as is known
        self._settling_since: float | None = None  # the loop's clock when it was first told what may run
        self._answered: int | None = None  # the version of the last answer
        self._reaps: set[asyncio.Task[None]] = set()

    async def join(self) -> None:
        """Joins the cluster, however long the server takes to be there. Raises JoinRefusedError."""
        while True:
            self._is_settled = self._is_settled and not self._running()  # the server may have forgotten what they hold
            try:
                await self._api.join(await self._report(settled=self._is_settled))
            except ServerAwayError as error:
                log.warning("waiting_for_server", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                log.info("joined")
                if self._files is not None:
                    self._files.tell_again()
                return

    async def run(self) -> None:
        """Reports until cancelled.

        Raises RemovedError, and JoinRefusedError when the server forgot us and takes us no more.
        """
        while True:
            pause = REPORT_EVERY_SECONDS
            try:
                await self.report_once()
            except NotJoinedError as error:
                if not (error.replaced and self._joined_again):
                    log.warning("joining_again", reason=str(error))
                    await self.join()
                    self._joined_again = True
                    continue
                # Two agents under one name would take it from each other for ever: the later one keeps it.
                log.error("worker_name_taken", reason=str(error), remedy="give this worker another --name")
                pause = NAME_TAKEN_SECONDS
            except ServerAwayError as error:
                log.warning("report_failed", error=str(error))
                pause = RETRY_SECONDS
            await asyncio.sleep(LEAST_PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause - LEAST_PAUSE_SECONDS):
                    await self._board.changed()

    async def report_once(self) -> ReportAnswer:
        """One report, or after a long silence two, and what follows from the answer.

        Raises NotJoinedError, RemovedError, ServerAwayError.
        """
        loop = asyncio.get_running_loop()
        if self._is_settled and self._running() and self._presence.was_lost:  # with nothing here nothing is to end
            log.warning("away_for_long", follows="what was given to others meanwhile ends first")
            self._is_settled = False
        if not self._is_settled:
            began = loop.time()
            answer, left = await self._exchange(settled=False)
            self._settling_since = began if self._settling_since is None else self._settling_since
            if left and loop.time() - self._settling_since < SETTLE_SECONDS:
                return answer
            if left:
                log.error("process_not_ended", processes=[_written(key) for key in left], remedy="restart the host")
            self._is_settled, self._settling_since = True, None
        answer, _ = await self._exchange(settled=True)
        self._presence.taken()
        return answer

    async def _exchange(self, *, settled: bool) -> tuple[ReportAnswer, list[ProcessKey]]:
        """Reports, and ends what the answer does not name; also what of that is still there afterwards."""
        known = set(self._supervisor.statuses())  # before the question: the answer says nothing of younger ones
        report = await self._report(settled=settled)
        answer = await self._api.report(report)
        if self._files is not None:
            self._files.taken(report.files)
        self._answered = answer.version
        if self._on_revoked is not None:
            await self._on_revoked(answer.revoked)
        held = {(item.instance_id, item.incarnation) for item in answer.held}
        doomed = {key for key in known if (key.instance_id, key.incarnation) not in held}
        if doomed:
            task = asyncio.create_task(self._reap(known - doomed, known), name="reaping")
            self._reaps.add(task)
            task.add_done_callback(self._reaped)
            await asyncio.wait({task}, timeout=REAP_SECONDS)
        return answer, [key for key in self._alive() if key in doomed]

    def _reaped(self, task: asyncio.Task[None]) -> None:
        self._reaps.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reaping_failed", exc_info=error)

    async def _reap(self, keep: Collection[ProcessKey], among: Collection[ProcessKey]) -> None:
        reaped = await self._supervisor.reap(keep, among=among)
        if reaped:
            log.info("processes_reaped", processes=[_written(key) for key in reaped])

    async def watch_loading(self) -> None:
        """Shows on the board how far models have loaded, until cancelled."""
        while True:
            for key, status in self._supervisor.statuses().items():
                if key.role == "main" and status.phase in (ProcessPhase.STARTING, ProcessPhase.LOADING):
                    done = int(1000 * status.progress)
                    self._board.show(key.instance_id, Progress(done=done, total=1000))
            await asyncio.sleep(LEAST_PAUSE_SECONDS)

    async def _report(self, *, settled: bool) -> WorkerReport:
        answered, running = self._answered, self._running()  # in this order: what runs is as of that answer or later
        worker = await asyncio.to_thread(self._look)
        files = await asyncio.to_thread(self._files.changed) if self._files is not None else None
        return WorkerReport(
            worker=worker,
            files=files,
            progress=self._board.current(),
            settled=settled,
            running=running,
            answered=answered,
        )

    def _running(self) -> tuple[HeldIncarnation, ...]:
        names = sorted({(key.instance_id, key.incarnation) for key in self._alive()})
        return tuple(HeldIncarnation(instance_id=instance_id, incarnation=number) for instance_id, number in names)

    def _alive(self) -> list[ProcessKey]:
        statuses = self._supervisor.statuses().items()
        return [key for key, status in statuses if status.phase is not ProcessPhase.EXITED]


def _written(key: ProcessKey) -> str:
    return f"{key.instance_id}.{key.incarnation}.{key.role}"
