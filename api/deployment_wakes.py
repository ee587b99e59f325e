"""Wakes deployments that sleep, through Temporal, beside the requests that ask for them."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from api import deployment_calls
from stoker.domain.naming import deployment_workflow_id
from stoker.storage.engine import Database
from workflows.deployment import Deployment
from workflows.types import WakeRequest

log = structlog.get_logger()

WITHIN = timedelta(seconds=5)
AGAIN_SECONDS = 1.0
"""Between two signals to one deployment, however many requests wait for it."""


class DeploymentWakes:
    """Signals workflows; one that was terminated in Temporal is started again from its rows. For one event loop."""

    def __init__(self, client: Client, database: Database, clock: Callable[[], datetime]) -> None:
        self._client, self._database, self._clock = client, database, clock
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def wake(self, deployment: str) -> None:
        """Has a first replica of it started, soon; nothing where that was asked less than a second ago."""
        if deployment not in self._under_way:
            self._under_way[deployment] = task = asyncio.create_task(self._wake(deployment))
            task.add_done_callback(lambda _: self._under_way.pop(deployment))

    async def _wake(self, deployment: str) -> None:
        try:
            async with asyncio.timeout(WITHIN.total_seconds()):  # also what the SDK tries again by itself
                await self._tell(deployment)
            log.info("deployment_woken", deployment=deployment)
        except (RPCError, RuntimeError, TimeoutError, SQLAlchemyError) as error:  # whoever waits has it tried again
            log.warning("deployment_not_woken", deployment=deployment, error=str(error))
        await asyncio.sleep(AGAIN_SECONDS)

    async def _tell(self, deployment: str) -> None:
        request = WakeRequest(reason="a request came while it slept")
        handle = self._client.get_workflow_handle_for(Deployment.run, deployment_workflow_id(deployment))
        try:
            await handle.signal(Deployment.wake, request, rpc_timeout=WITHIN)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            state = await asyncio.to_thread(deployment_calls.recalled, self._database, self._clock(), deployment)
            if state is None:
                raise
            await deployment_calls.start_with_signal(self._client, deployment, state, request)  # it was terminated
