"""The agent's report: every few seconds, and at once when progress is made. Its answer says what may run here."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from activities.ports import ProcessKey, ProcessPhase
from stoker.domain.reports import REPORT_EVERY_SECONDS, ReportAnswer, WorkerReport
from stoker.domain.statuses import Progress
from stoker.domain.workers import Worker
from worker_agent.control_api import ControlApi, NotJoinedError, ServerAwayError
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor

log = structlog.get_logger()

LEAST_PAUSE_SECONDS = 0.25
"""Progress is reported no more often than this."""

RETRY_SECONDS = 1.0
NAME_TAKEN_SECONDS = 30.0


class Heartbeat:
    """Tells the API how the worker is, and ends processes that hold no claims any more."""

    def __init__(
        self, api: ControlApi, look: Callable[[], Worker], supervisor: HostSupervisor, board: ProgressBoard
    ) -> None:
        """`look` reads the worker's inventory now."""
        self._api, self._look, self._supervisor, self._board = api, look, supervisor, board
        self._joined_again = False

    async def join(self) -> None:
        """Joins the cluster, however long the server takes to be there. Raises JoinRefusedError."""
        while True:
            try:
                await self._api.join(await self._report())
            except ServerAwayError as error:
                log.warning("waiting_for_server", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                log.info("joined")
                return

    async def run(self) -> None:
        """Reports until cancelled. Raises JoinRefusedError when the server forgot us and takes us no more."""
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
        """One report, and what follows from its answer. Raises NotJoinedError, ServerAwayError."""
        known = set(self._supervisor.statuses())  # before the question: the answer says nothing of younger ones
        answer = await self._api.report(await self._report())
        held = {(item.instance_id, item.incarnation) for item in answer.held}
        keep = [key for key in known if (key.instance_id, key.incarnation) in held]
        reaped = await self._supervisor.reap(keep, among=known)
        if reaped:
            log.info("processes_reaped", processes=[_written(key) for key in reaped])
        return answer

    async def watch_loading(self) -> None:
        """Shows on the board how far models have loaded, until cancelled."""
        while True:
            for key, status in self._supervisor.statuses().items():
                if status.phase in (ProcessPhase.STARTING, ProcessPhase.LOADING):
                    done = int(1000 * status.progress)
                    self._board.show(key.instance_id, Progress(done=done, total=1000))
            await asyncio.sleep(LEAST_PAUSE_SECONDS)

    async def _report(self) -> WorkerReport:
        worker = await asyncio.to_thread(self._look)
        return WorkerReport(worker=worker, progress=self._board.current())


def _written(key: ProcessKey) -> str:
    return f"{key.instance_id}.{key.incarnation}.{key.role}"
