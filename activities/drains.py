"""What a drain needs of the worker that it empties (control queue)."""

import asyncio

from temporalio import activity

from activities.ports import Occupancy
from activities.types import LookAtWorkerInput, LookAtWorkerResult, SeenInstance, StopDrainingInput
from stoker.domain.statuses import InstanceStatus
from stoker.domain.workers import WorkerState

_CALLED_OFF = (WorkerState.READY, WorkerState.CORDONED)
"""An unreachable worker is emptied too: nothing says that its drain was called off."""

_LONGEST_MESSAGE = 300  # characters: a look at a full worker must stay a small payload


class DrainActivities:
    """Holds the rows of instances and workers."""

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy

    @activity.defn
    async def look_at_worker(self, input: LookAtWorkerInput) -> LookAtWorkerResult:
        """Which instances use the worker, and whether it is still to be emptied."""
        return await asyncio.to_thread(self._look, input)

    @activity.defn
    async def stop_draining(self, input: StopDrainingInput) -> None:
        """The worker's row says from here on that nobody empties it. Repeating it is harmless."""
        await asyncio.to_thread(self._occupancy.stop_draining, input.worker)

    def _look(self, input: LookAtWorkerInput) -> LookAtWorkerResult:
        state = self._occupancy.worker_state(input.worker)
        there = sorted(self._occupancy.on_worker(input.worker), key=lambda status: status.instance_id)
        ids = {status.instance_id for status in there}
        siblings = self._occupancy.of_deployment(input.deployment) if input.deployment else ()
        elsewhere = [status for status in siblings if status.instance_id not in ids]
        youngest = max(elsewhere, key=lambda status: (status.created_at, status.instance_id), default=None)
        return LookAtWorkerResult(
            draining=state not in _CALLED_OFF,
            there=tuple(map(_seen, there)),
            youngest=_seen(youngest) if youngest is not None else None,
        )


def _seen(status: InstanceStatus) -> SeenInstance:
    return SeenInstance(
        instance_id=status.instance_id,
        deployment=status.deployment,
        state=status.state,
        message=status.message[:_LONGEST_MESSAGE],
        workers=status.placement.workers if status.placement is not None else (),
    )
