"""Takes a model's files off one worker's disk, for an administrator who waits for the answer."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError

with workflow.unsafe.imports_passed_through():
    from activities.downloads import DownloadActivities
    from activities.types import EvictInput
    from stoker.domain.naming import worker_queue
    from workflows import options
    from workflows.types import EvictionInput, EvictionResult


@workflow.defn
class Eviction:
    """Answers with the bytes that are free, or fails with the code and the words of the worker that refused."""

    @workflow.run
    async def run(self, input: EvictionInput) -> EvictionResult:
        """Asks the worker."""
        try:
            done = await workflow.execute_activity_method(
                DownloadActivities.evict_model,
                EvictInput(model=input.model, force=input.force),
                summary=f"take {input.model} off the disk of {input.worker}",
                **options.on_queue(options.EVICT, worker_queue(input.worker)),
            )
            return EvictionResult(freed=done.freed)
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, type=cause.type) from error
            if isinstance(cause, TimeoutError):
                message = f"the agent of {input.worker} does not answer"
                raise ApplicationError(message, type="worker_unreachable") from error
            raise
