"""Model files on a host: read, and made present (the host's queues)."""

from collections.abc import Callable
from contextlib import aclosing

from temporalio import activity

from activities.errors import as_application_errors
from activities.heartbeats import beating
from activities.ports import DownloadProgress, ModelSourceError, ModelStore
from activities.types import FetchInput, FetchResult, InspectedModel, InspectInput, InspectResult
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
        with as_application_errors():
            async with beating(lambda: progress), aclosing(self._store.fetch(input.files)) as steps:
                async for progress in steps:
                    first = progress.done if first is None else first
                    shown = Progress(done=progress.done, total=progress.total)
                    self._show_progress(input.instance_id, shown)
        fetched = progress.done - (first or 0) if progress else 0
        return FetchResult(model_path=self._store.local_path(input.files), fetched=max(0, fetched))
