"""Wakes deployments that sleep, through Temporal, beside the requests that ask for them."""

import asyncio
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from stoker.domain.naming import deployment_workflow_id
from workflows.deployment import Deployment
from workflows.types import WakeRequest

log = structlog.get_logger()

WITHIN = timedelta(seconds=5)
AGAIN_SECONDS = 1.0
"""Between two signals to one deployment, however many requests wait for it."""


class DeploymentWakes:
    """Signals workflows. For one event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def wake(self, deployment: str) -> None:
        """Has a first replica of it started, soon; nothing where that was asked less than a second ago."""
        if deployment not in self._under_way:
            self._under_way[deployment] = task = asyncio.create_task(self._wake(deployment))
            task.add_done_callback(lambda _: self._under_way.pop(deployment))

    async def _wake(self, deployment: str) -> None:
        handle = self._client.get_workflow_handle_for(Deployment.run, deployment_workflow_id(deployment))
        try:
            request = WakeRequest(reason="a request came while it slept")
            async with asyncio.timeout(WITHIN.total_seconds()):  # also what the SDK tries again by itself
                await handle.signal(Deployment.wake, request, rpc_timeout=WITHIN)
            log.info("deployment_woken", deployment=deployment)
        except (RPCError, RuntimeError, TimeoutError) as error:  # whoever waits has it tried again
            log.warning("deployment_not_woken", deployment=deployment, error=str(error))
        await asyncio.sleep(AGAIN_SECONDS)
