"""Claims: taken, given back, and those told who may fit now (control queue)."""

import asyncio

from temporalio import activity

from activities.ports import InstanceCalls, Ledger
from activities.types import (
    PlaceResult,
    ReadyWorkersInput,
    ReadyWorkersResult,
    ReleaseInput,
    ReleaseResult,
    SweepInput,
    SweepResult,
)
from stoker.domain.placement.types import Placement, PlacementRequest


class PlacementActivities:
    """Holds the ledger of claims and the way to wake instances."""

    def __init__(self, ledger: Ledger, calls: InstanceCalls) -> None:
        self._ledger, self._calls = ledger, calls

    @activity.defn
    async def place(self, input: PlacementRequest) -> PlaceResult:
        """Claims a place in one transaction, or says why there is none. Idempotent by instance and incarnation."""
        outcome = await asyncio.to_thread(self._ledger.place, input)
        if isinstance(outcome, Placement):
            return PlaceResult(placement=outcome)
        return PlaceResult(unplaceable=outcome)

    @activity.defn
    async def release(self, input: ReleaseInput) -> ReleaseResult:
        """Gives claims back and wakes exactly the pending instances that fit now.

        Without an incarnation it is asked for an instance whose workflow is over, and confirmed nothing.
        """
        if input.incarnation is None:
            await asyncio.to_thread(self._ledger.abandon, input.instance_id)
            return ReleaseResult(woken=())
        woken = await asyncio.to_thread(self._ledger.release, input.instance_id, input.incarnation, input.unconfirmed)
        await self._calls.wake(woken)
        return ReleaseResult(woken=woken)

    @activity.defn
    async def ready_workers(self, input: ReadyWorkersInput) -> ReadyWorkersResult:
        """The workers that could read a file for this spec now."""
        return ReadyWorkersResult(workers=await asyncio.to_thread(self._ledger.ready_workers, input.spec))

    @activity.defn
    async def sweep_instances(self, input: SweepInput) -> SweepResult:
        """Finds instances whose workflow ended without a word (a terminated one runs none): their claims are ending."""
        ended = await self._calls.ended(input.instance_ids)
        for instance_id in ended:
            await asyncio.to_thread(self._ledger.abandon, instance_id)
        return SweepResult(ended=ended)
