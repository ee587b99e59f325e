"""Reading what a model needs from a hub (control queue). Files on hosts are read by the hosts: see downloads."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import as_application_errors
from activities.ports import ModelHub
from activities.types import EstimateInput, EstimateResult, InspectedModel, InspectInput
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate


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

    @activity.defn
    async def estimate_model(self, input: EstimateInput) -> EstimateResult:
        """What the model needs as the spec wants it. Refuses what no device could ever run, with the reason."""
        return EstimateResult(on_gpu=_estimated(input, whole(input.profile)), on_cpu=_estimated(input, ()))


def _estimated(input: EstimateInput, split: tuple[int, ...]) -> MemoryEstimate:
    outcome = estimate(input.profile, input.spec.options, split)
    if isinstance(outcome, EstimateRefusal):
        raise ApplicationError(outcome.message, type="unsupported_model", non_retryable=True)
    return outcome
