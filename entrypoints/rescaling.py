"""How the control plane reaches the deployments that are to have another number of replicas."""

import asyncio

from temporalio.client import Client

from entrypoints.clock import utc_now
from stoker.domain.scaling import Rescale
from stoker.storage.engine import Database
from stoker.temporal import TemporalDeploymentCalls


class RescaleCalls:
    """Signals workflows; one that was terminated in Temporal is started again from its rows."""

    def __init__(self, client: Client, database: Database) -> None:
        self._client, self._database = client, database
        self._running = TemporalDeploymentCalls(client)

    async def scale(self, rescale: Rescale) -> bool:
        """Whether it was told; it is not where it is gone. Raises SQLAlchemyError, RPCError, RuntimeError."""
        if await self._running.scale(rescale):
            return True
        # Here alone: it brings the whole API along, and a workflow that was terminated is rare.
        from api import deployment_calls
        from workflows.types import ScaleRequest

        recall = deployment_calls.recalled
        state = await asyncio.to_thread(recall, self._database, utc_now(), rescale.deployment)
        if state is None:
            return False
        request = ScaleRequest(replicas=rescale.replicas, seen=rescale.seen, reason=rescale.reason)
        await deployment_calls.start_with_signal(self._client, rescale.deployment, state, request)
        return True
