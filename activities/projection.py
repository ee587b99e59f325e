"""Rows for people and for the API, written as the workflows want them seen (control queue). All idempotent."""

import asyncio

from temporalio import activity

from activities.ports import Projections
from activities.types import RemoveDeploymentInput, RemoveInstanceInput
from stoker.domain.statuses import DeploymentProjection, InstanceProjection


class ProjectionActivities:
    """Holds the rows."""

    def __init__(self, projections: Projections) -> None:
        self._projections = projections

    @activity.defn
    async def project_deployment(self, input: DeploymentProjection) -> None:
        """Inserts or updates the deployment's row."""
        await asyncio.to_thread(self._projections.put_deployment, input)

    @activity.defn
    async def remove_deployment(self, input: RemoveDeploymentInput) -> None:
        """Removes the deployment's row and those of its instances."""
        await asyncio.to_thread(self._projections.remove_deployment, input.name)

    @activity.defn
    async def project_instance(self, input: InstanceProjection) -> None:
        """Inserts or updates the instance's row. A running instance's row is also its endpoint: the proxy reads it."""
        await asyncio.to_thread(self._projections.put_instance, input)

    @activity.defn
    async def remove_instance(self, input: RemoveInstanceInput) -> None:
        """Removes the instance's row."""
        await asyncio.to_thread(self._projections.remove_instance, input.instance_id)
