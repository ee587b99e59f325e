"""Activity attempts that die with the agent, reported dead by the next agent.

Without this, Temporal learns of a killed agent only when a heartbeat is missed, and for that long nobody stays with
the processes. Each attempt's task token is kept in a file while it runs; an agent that starts fails what it finds, and
Temporal schedules the next attempt, which adopts the process.
"""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

log = structlog.get_logger()


class AttemptJournal(Interceptor):
    """Keeps the running attempts' task tokens in `folder`, readable by the agent's user only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """For the SDK: wraps every activity."""
        return _Journalled(next, self._folder)

    async def fail_stale(self, client: Client) -> None:
        """Fails the attempts of an agent that died. To be called before this agent takes work."""
        for path in self._folder.glob("*.token"):
            handle = client.get_async_activity_handle(task_token=path.read_bytes())
            try:
                await handle.fail(ApplicationError("the agent was restarted", type="agent_restarted"))
            except RPCError as error:
                if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                    log.warning("stale_attempt_not_reported", error=str(error))  # its missed heartbeats will tell
                    continue
                log.debug("stale_attempt_gone", error=str(error))  # timed out already, or its workflow is over
            path.unlink(missing_ok=True)


class _Journalled(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, folder: Path) -> None:
        super().__init__(next)
        self._folder = folder

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        path = self._folder / f"{uuid4().hex}.token"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(activity.info().task_token)
        try:
            return await super().execute_activity(input)
        finally:
            path.unlink(missing_ok=True)
