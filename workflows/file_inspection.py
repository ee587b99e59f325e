"""Reading a model file that lies on the workers' disks: every worker that may have it is asked."""

import asyncio
from collections.abc import Sequence

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError

with workflow.unsafe.imports_passed_through():
    from activities.downloads import DownloadActivities
    from activities.placement import PlacementActivities
    from activities.types import InspectedModel, InspectInput, InspectResult, ReadyWorkersInput
    from stoker.domain.deployments import DeploymentSpec
    from stoker.domain.naming import worker_queue
    from workflows import options


async def inspect_on_workers(spec: DeploymentSpec) -> InspectedModel:
    """What the workers that `spec` admits say of its file; `found_on` names those that have it.

    Raises ApplicationError (no_worker, file_not_found), and the ActivityError of the first that could not read it.
    """
    ready = await workflow.execute_activity_method(
        PlacementActivities.ready_workers,
        ReadyWorkersInput(spec=spec),
        summary="who could read the file",
        **options.TRANSACTION,
    )
    if not ready.workers:
        raise ApplicationError(
            f"no worker that may be used is there to read {spec.model}",
            type="no_worker",
            non_retryable=True,
        )
    answers = await asyncio.gather(
        *(
            workflow.execute_activity_method(
                DownloadActivities.inspect_file,
                InspectInput(source=spec.model),
                summary=f"read the header of {spec.model} on {worker}",
                **options.on_queue(options.INSPECT, worker_queue(worker)),
            )
            for worker in ready.workers
        ),
        return_exceptions=True,
    )
    return _merged(spec, ready.workers, [a.model if isinstance(a, InspectResult) else a for a in answers])


def refusal_of(error: ActivityError | ApplicationError) -> ApplicationError:
    """The reason in the words and with the code of whoever refused."""
    cause = error.cause if isinstance(error, ActivityError) else error
    if isinstance(cause, ApplicationError):
        return ApplicationError(cause.message, type=cause.type)
    if isinstance(error, ActivityError) and isinstance(cause, TimeoutError):
        return ApplicationError("a worker that may have the model does not answer", type="worker_unreachable")
    return ApplicationError(f"the model could not be read: {cause or error}", type="inspection_failed")


def _merged(
    spec: DeploymentSpec, workers: Sequence[str], answers: Sequence[InspectedModel | BaseException | None]
) -> InspectedModel:
    """What the hosts that have the file agree on; raises the first refusal when none has a readable one."""
    by_worker = dict(zip(workers, answers, strict=True))
    seen = {worker: answer for worker, answer in by_worker.items() if isinstance(answer, InspectedModel)}
    if seen:
        first = next(iter(seen.values()))
        found_on = tuple(worker for worker, answer in seen.items() if answer.files.files == first.files.files)
        return first.model_copy(update={"files": first.files.model_copy(update={"found_on": found_on})})
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    raise ApplicationError(
        f"no such file: {spec.model.path} (looked on {', '.join(workers)})", type="file_not_found", non_retryable=True
    )
