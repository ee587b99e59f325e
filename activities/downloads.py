"""Model files on a host: read, made present, and taken away (the host's queues)."""

from collections.abc import Callable
from contextlib import aclosing

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.errors import as_application_errors
from activities.heartbeats import beating
from activities.ports import DownloadProgress, EvictionRefusedError, ModelSourceError, ModelStore
from activities.types import (
    EvictInput,
    EvictResult,
    FetchInput,
    FetchResult,
    InspectedModel,
    InspectInput,
    InspectResult,
)
from stoker.domain.base import InstanceId
from stoker.domain.statuses import Progress


class DownloadActivities:
    """Holds the host's model files."""

    def __init__(self, store: ModelStore, show_progress: Callable[[InstanceId, Progress], None]) -> None:
        """`show_progress` puts an instance's progress where people see it; it must not block."""
        self._store, self._show_progress = store, show_progress

    @activity.defn
    async def inspect_file(self, input: InspectInput) -> InspectResult:
        """Reads the header of a file on this host. A host that lacks it says so: another may have it."""
        with as_application_errors():
            try:
                files, profile = await self._store.inspect(input.source.path)
            except ModelSourceError as error:
                if error.code == "file_not_found":
                    return InspectResult()
                raise
        return InspectResult(model=InspectedModel(files=files, profile=profile))

    @activity.defn
    async def fetch_model(self, input: FetchInput) -> FetchResult:
        """Makes the files present; heartbeats carry the progress. A retry goes on with the bytes that are on disk."""
        progress: DownloadProgress | None = None
        first: int | None = None
        fetching = self._store.fetch(input.files, user=input.instance_id, peers=input.peers, keep=input.keep)
        with as_application_errors():
            async with beating(lambda: progress), aclosing(fetching) as steps:
                async for progress in steps:
                    first = progress.done if first is None else first
                    shown = Progress(done=progress.done, total=progress.total, files=progress.files)
                    self._show_progress(input.instance_id, shown)
        fetched = max(0, progress.done - (first or 0)) if progress else 0
        return FetchResult(
            model_path=self._store.local_path(input.files),
            fetched=fetched,
            from_peers=progress.from_peers if progress else 0,
            evicted=progress.evicted if progress else (),
        )

    @activity.defn
    async def evict_model(self, input: EvictInput) -> EvictResult:
        """Takes a model's files off this host's disk, unless they are in use here."""
        with as_application_errors():
            try:
                return EvictResult(freed=await self._store.evict(input.model, force=input.force))
            except EvictionRefusedError as error:
                raise ApplicationError(str(error), type=error.code, non_retryable=True) from error
