"""What states and ways of placing a model are called on pages, and the colour class of each state's dot."""

from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Tier
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

TIER_NAMES = {
    Tier.ONE_DEVICE: "one GPU",
    Tier.ONE_WORKER: "GPUs of one worker",
    Tier.SEVERAL_WORKERS: "GPUs of several workers",
    Tier.PART_ON_CPU: "one worker, part on its CPU",
    Tier.PART_ON_CPU_SEVERAL_WORKERS: "several workers, part on a CPU",
    Tier.CPU: "one worker's CPU",
    Tier.CPU_SEVERAL_WORKERS: "CPUs of several workers",
}


def counted(count: int, thing: str) -> str:
    """`1 worker`, `3 workers`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
