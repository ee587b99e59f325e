"""Every timeout and retry policy, by name."""

from datetime import timedelta
from typing import Any, TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType

from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS


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

SILENT_HOST = timedelta(days=30)
"""How long work for a host waits for its agent. That a host is gone is told by `WORKER_LOST_SIGNAL`, whose sender sees
all hosts: one activity alone cannot tell a dead host from an outage that silences many."""

# One download of a whole model. The queue lets a few run at a time.
FETCH = ActivityOptions(
    start_to_close_timeout=timedelta(days=2),
    schedule_to_start_timeout=SILENT_HOST,
    heartbeat_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1), maximum_attempts=20
    ),
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

# Which other workers have the files already, before a download. Nobody waits long for that: the hub has them too.
LOOK_FOR_FILES = ActivityOptions(
    start_to_close_timeout=timedelta(seconds=10),
    schedule_to_close_timeout=timedelta(seconds=20),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_attempts=3),
)

# Taking a model off a host's disk, while an administrator waits for the answer.
EVICT = ActivityOptions(
    start_to_close_timeout=timedelta(seconds=60),
    schedule_to_start_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_attempts=2),
)

# One process. heartbeat_timeout is longer than an ordinary restart of Temporal: past it the next agent adopts it.
SERVE = ActivityOptions(
    start_to_close_timeout=timedelta(days=365),
    schedule_to_start_timeout=SILENT_HOST,
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

# Trying the ways from a group's main server to its peers, while it starts.
CHECK_LINKS = ActivityOptions(
    start_to_close_timeout=timedelta(minutes=2),
    schedule_to_start_timeout=SILENT_HOST,
    heartbeat_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
)

CONFIRM_END = timedelta(seconds=10)
"""How long a group's tear-down waits for each host's word that a process is gone. Longer than the agent needs to kill
one that is frozen; a host that says nothing for so long keeps its claims (`ReleaseInput.unconfirmed`)."""

CONFIRM_CUT = timedelta(seconds=2)
"""The same for a host whose link is known to be cut: most likely there is nobody to say a word."""

BLAME = timedelta(seconds=1)
"""How long a group whose main server or link has ended waits to learn which of its members was the cause."""

AVOID_FAILED = timedelta(minutes=10)
"""How long a group keeps away from the worker that it failed because of, where it finds room elsewhere."""

HOLD_RECHECK = timedelta(seconds=PENDING_HOLD_SECONDS + 30)
"""So long after it began to wait, an instance looks once: it reserves devices now, and its row's reasons name them.
The half minute is for clocks that differ: the claiming transaction, which counts too, must agree that it has waited."""

CAPACITY_RECHECK = timedelta(hours=6)
"""How often a pending instance looks by itself from then on: the net below the control plane's look once a minute,
which is the net below the signals of those who make room."""

_RECHECK_SPREAD = 0.25  # of each wait: many that began to wait together do not all ask together

SWEEP_EVERY = timedelta(minutes=5)
"""How often a deployment looks for instances that ended without a word (a terminated workflow runs no code)."""

LOAD_DEADLINE = timedelta(minutes=10)
LOAD_BYTES_PER_SECOND = 20_000_000
"""A main server must answer within LOAD_DEADLINE and the time that its file takes from a slow disk."""

DRAIN_LOOK = timedelta(seconds=30)
"""How often a drain looks at an instance that is to leave: the net below the signal that it is gone."""

DRAIN_PENDING = timedelta(minutes=1)
"""How long a drain waits for an instance whose successor finds no place, though room would be made for it."""

DRAIN_RETRY = timedelta(minutes=5)
"""How often a drain asks again for the instances that stayed when they had their turn."""

DRAIN_SETTLE_SECONDS = 1.0
"""Longer than the proxy needs to see that a route was withdrawn (it rereads its routes twice a second)."""

DRAIN_TIMEOUT_SECONDS = 30.0
"""How long running requests may go on after their deployment was deleted."""

DRAIN_PATIENCE_SECONDS = 600.0
"""How long they may go on where their deployment stays and needs the instance no more: a long answer takes minutes."""


def load_deadline(model_bytes: int) -> timedelta:
    """How long a main server may take to load a model of that size."""
    return LOAD_DEADLINE + timedelta(seconds=model_bytes / LOAD_BYTES_PER_SECOND)


def drain(seconds: float) -> ActivityOptions:
    """Waiting so long at most for the requests of an instance whose host is known to be there."""
    longest = HOST_CALL["start_to_close_timeout"] + timedelta(seconds=seconds)
    return {**HOST_CALL, "start_to_close_timeout": longest}


def next_recheck(waited: timedelta, chance: float) -> timedelta:
    """After how long an instance that has `waited` for room looks by itself. `chance`: 0 to 1, another for each."""
    least = HOLD_RECHECK - waited if waited < HOLD_RECHECK else CAPACITY_RECHECK
    return least * (1 + _RECHECK_SPREAD * chance)


def on_queue(options: ActivityOptions, queue: str) -> Any:
    """The options, on that task queue."""
    return {**options, "task_queue": queue}
