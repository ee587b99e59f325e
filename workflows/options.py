"""Every timeout and retry policy, by name."""

from datetime import timedelta
from typing import Any, TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType


class ActivityOptions(TypedDict, total=False):
    """Keyword arguments of `workflow.execute_activity` and `start_activity`."""

    start_to_close_timeout: timedelta
    schedule_to_start_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType
    task_queue: str


# A database transaction on the control plane. Retried for ever: while the database is away, everything waits.
TRANSACTION = ActivityOptions(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=15)),
)

# Reading a header over the network or from a host's disk, while an administrator waits for the answer.
INSPECT = ActivityOptions(
    start_to_close_timeout=timedelta(seconds=60),
    schedule_to_start_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_attempts=3),
)

# One download of a whole model. The queue lets a few run at a time, so waiting for a turn is not a dead host.
FETCH = ActivityOptions(
    start_to_close_timeout=timedelta(days=2),
    schedule_to_start_timeout=timedelta(hours=12),
    heartbeat_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=20
    ),
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

# One process. heartbeat_timeout is longer than an ordinary restart of Temporal; schedule_to_start says that the host
# itself is gone: nobody takes work from its queue (it is checked at every attempt and never retried).
SERVE = ActivityOptions(
    start_to_close_timeout=timedelta(days=365),
    schedule_to_start_timeout=timedelta(seconds=30),
    heartbeat_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0),
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

# A short word with a host that is known to be there.
HOST_CALL = ActivityOptions(
    start_to_close_timeout=timedelta(minutes=2),
    schedule_to_start_timeout=timedelta(seconds=20),
    heartbeat_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
)

CAPACITY_RECHECK = timedelta(minutes=5)
"""A pending instance is woken by a signal; this is the net below it, should a signal ever be lost."""

SWEEP_EVERY = timedelta(minutes=5)
"""How often a deployment looks for instances that ended without a word (a terminated workflow runs no code)."""

LOAD_DEADLINE = timedelta(minutes=10)
LOAD_BYTES_PER_SECOND = 20_000_000
"""A main server must answer within LOAD_DEADLINE and the time that its file takes from a slow disk."""

DRAIN_SETTLE_SECONDS = 1.0
"""Longer than the proxy needs to see that a route was withdrawn (it rereads its routes twice a second)."""

DRAIN_TIMEOUT_SECONDS = 30.0
"""How long running requests may go on after their instance was told to stop."""


def load_deadline(model_bytes: int) -> timedelta:
    """How long a main server may take to load a model of that size."""
    return LOAD_DEADLINE + timedelta(seconds=model_bytes / LOAD_BYTES_PER_SECOND)


def on_queue(options: ActivityOptions, queue: str) -> Any:
    """The options, on that task queue."""
    return {**options, "task_queue": queue}
