"""What a download needs to know of the other workers (control queue)."""

import asyncio

from temporalio import activity

from activities.ports import FileHolders
from activities.types import LookForFilesInput, LookForFilesResult


class FileActivities:
    """Holds the rows of what lies on which worker."""

    def __init__(self, holders: FileHolders) -> None:
        self._holders = holders

    @activity.defn
    async def look_for_files(self, input: LookForFilesInput) -> LookForFilesResult:
        """Which workers have the model already, and which models must stay on the one that fetches it."""
        return await asyncio.to_thread(self._look, input)

    def _look(self, input: LookForFilesInput) -> LookForFilesResult:
        return LookForFilesResult(
            peers=self._holders.peers(input.model, besides=input.worker), keep=self._holders.placed_on(input.worker)
        )
