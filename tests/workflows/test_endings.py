"""What a failed activity means for its instance, and whose fault it is."""

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeout

from activities.types import ProcessEnd
from tests.workflows.group_hosts import placed_on
from workflows.endings import end_of


def failed(cause: BaseException) -> ActivityError:
    error = ActivityError(
        "failed",
        scheduled_event_id=5,
        started_event_id=6,
        identity="",
        activity_type="fetch_model",
        activity_id="1",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )
    error.__cause__ = cause
    return error


def away(kind: TimeoutType) -> ActivityTimeout:
    return ActivityTimeout("late", type=kind, last_heartbeat_details=[])


@pytest.mark.parametrize(
    ("cause", "end"),
    [
        (ApplicationError("no room", type="disk_full"), ProcessEnd(cause="no room", worker="w1")),
        (ApplicationError("broken", type="disk_error"), ProcessEnd(cause="broken", worker="w1")),
        (ApplicationError("the hub is away", type="hub_unavailable"), ProcessEnd(cause="the hub is away")),
        (
            ApplicationError("private", type="access_denied", non_retryable=True),
            ProcessEnd(cause="private", retryable=False),
        ),
        (away(TimeoutType.SCHEDULE_TO_START), ProcessEnd(cause="w1 does not answer: its agent takes no work")),
        (away(TimeoutType.HEARTBEAT), ProcessEnd(cause="late")),
    ],
)
def test_a_group_avoids_its_main_servers_host_only_for_what_is_that_hosts(
    cause: BaseException, end: ProcessEnd
) -> None:
    assert end_of(failed(cause), placed_on("w1", "w2")) == end


def test_without_a_place_nobody_is_blamed() -> None:
    assert end_of(failed(ApplicationError("x", type="disk_full")), None) == ProcessEnd(cause="x")
