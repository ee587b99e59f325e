"""Reading what a model needs from a hub (control queue). Files on hosts are read by the hosts: see downloads."""

from temporalio import activity

from activities.errors import as_application_errors
from activities.ports import ModelHub
from activities.types import InspectedModel, InspectInput


class EstimationActivities:
    """Holds the hub."""

    def __init__(self, hub: ModelHub) -> None:
        self._hub = hub

    @activity.defn
    async def inspect_hub_model(self, input: InspectInput) -> InspectedModel:
        """Resolves a hub source to files at a pinned commit and reads only their headers."""
        with as_application_errors():
            files, profile = await self._hub.inspect(input.source)
        return InspectedModel(files=files, profile=profile)
