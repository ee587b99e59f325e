"""How states look on pages: the colour class of each one's dot; and counts in words."""

from stoker.domain.deployments import InstanceState
from stoker.domain.workers import WorkerState

WORKER_STATE_CLASSES = {
    WorkerState.READY: "good",
    WorkerState.CORDONED: "warn",
    WorkerState.DRAINING: "warn",
    WorkerState.UNREACHABLE: "bad",
}

INSTANCE_STATE_CLASSES = {
    InstanceState.RUNNING: "good",
    InstanceState.DOWNLOADING: "busy",
    InstanceState.STARTING: "busy",
    InstanceState.PLACING: "busy",
    InstanceState.PENDING: "warn",
    InstanceState.BACKOFF: "warn",
    InstanceState.FAILED: "bad",
}


def counted(count: int, thing: str) -> str:
    """`1 worker`, `3 workers`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
