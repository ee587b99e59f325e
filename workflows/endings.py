"""What the end of an activity means for the instance that waited for it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeout

with workflow.unsafe.imports_passed_through():
    from activities.types import ProcessEnd
    from stoker.domain.base import WorkerName
    from stoker.domain.placement.types import Placement


_OF_THE_HOST = frozenset({"disk_full", "disk_error"})  # codes of failures that another host would not have


def end_of(error: ActivityError, placement: Placement | None) -> ProcessEnd:
    """What a failed activity means; `placement`: where the instance is, if it has a place."""
    if placement is None:
        return end_on(error, "the control plane")
    end, cause = end_on(error, placement.worker), error.cause
    is_its_fault = isinstance(cause, ApplicationError) and cause.type in _OF_THE_HOST
    return end.model_copy(update={"worker": placement.worker}) if is_its_fault else end


def end_on(error: ActivityError, where: str) -> ProcessEnd:
    """What a failed activity means; `where`: who was to run it."""
    cause = error.cause
    if isinstance(cause, ActivityTimeout) and cause.type == TimeoutType.SCHEDULE_TO_START:
        return ProcessEnd(cause=f"{where} does not answer: its agent takes no work")
    if isinstance(cause, ApplicationError):
        return ProcessEnd(cause=cause.message, retryable=not cause.non_retryable)
    return ProcessEnd(cause=str(cause or error))


def too_slow(what: str, within: timedelta, worker: WorkerName | Literal[""] = "") -> ProcessEnd:
    """What it means that `what` was not ready in time; `worker`: whose fault that is, where it is known."""
    return ProcessEnd(cause=f"{what} did not answer within {within}", worker=worker)


def lost_worker(worker: WorkerName, lost: Mapping[WorkerName, str]) -> ProcessEnd:
    """What it means that no word of a worker is waited for any more."""
    reason = lost[worker] or f"{worker} is silent"
    return ProcessEnd(cause=f"{reason}: it goes on without {worker}", code="worker_lost", worker=worker)
