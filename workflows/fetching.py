"""What a worker is told before it fetches a model: who has it already, and what must stay where it goes."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.files import FileActivities
    from activities.types import FetchInput, LookForFilesInput, LookForFilesResult
    from stoker.domain.base import InstanceId, WorkerName
    from stoker.domain.models import ModelFiles
    from workflows import options


async def fetch_input(instance_id: InstanceId, files: ModelFiles, worker: WorkerName) -> FetchInput:
    """The order to fetch `files`. Where the rows cannot be read in time it knows of no other worker: the hub serves."""
    found = LookForFilesResult()
    if workflow.patched("look-for-files"):
        try:
            found = await workflow.execute_activity_method(
                FileActivities.look_for_files,
                LookForFilesInput(model=files.key, worker=worker),
                summary=f"who has {files.source} already",
                **options.LOOK_FOR_FILES,
            )
        except ActivityError as error:
            workflow.logger.warning("nobody can be asked for %s before the hub: %s", files.key, error.cause or error)
    return FetchInput(instance_id=instance_id, files=files, peers=found.peers, keep=found.keep)
