"""The names by which processes find each other through Temporal: a wire contract. Never change one in place."""

from stoker.domain.base import DeploymentName, InstanceId, WorkerName

CONTROL_QUEUE = "control"
"""Workflows and the control plane's activities."""

CAPACITY_SIGNAL = "capacity"
"""Tells a pending instance that it may fit now."""

READY_SIGNAL = "main_ready"
"""Tells an instance that its main server answers."""

RPC_READY_SIGNAL = "rpc_ready"
"""Tells an instance that a worker's RPC server waits for its main server."""

LINK_READY_SIGNAL = "link_ready"
"""Tells an instance that the way from its main server's host to its RPC servers is open."""

WORKER_LOST_SIGNAL = "worker_lost"
"""Tells an instance that a worker which it uses was silent for so long that it must go on elsewhere."""

SCALE_SIGNAL = "scale"
"""Tells a deployment that demand asks for another number of replicas."""

SEARCH_ATTRIBUTES = ("StokerDeployment", "StokerPhase", "StokerReason", "StokerWorker")
"""Keyword search attributes of our workflows; registered before the first workflow starts."""


def worker_queue(worker: WorkerName) -> str:
    """The queue on which a host's agent takes the control of its processes."""
    return f"worker.{worker}"


def download_queue(worker: WorkerName) -> str:
    """The queue of a host's downloads: long work, kept apart so that it never holds up control."""
    return f"worker.{worker}.download"


def deployment_workflow_id(name: DeploymentName) -> str:
    """The id of a deployment's entity workflow."""
    return f"deployment/{name}"


def instance_workflow_id(instance_id: InstanceId) -> str:
    """The id of an instance's workflow."""
    return f"instance/{instance_id}"


def drain_workflow_id(worker: WorkerName) -> str:
    """The id of the workflow that moves a worker's instances elsewhere."""
    return f"drain/{worker}"


def eviction_workflow_id(worker: WorkerName, unique: str) -> str:
    """The id of one order to take a model off a worker's disk; `unique` tells it from all others."""
    return f"eviction/{worker}/{unique}"


def inspection_workflow_id(unique: str) -> str:
    """The id of one look at a file on the workers' disks; `unique` tells it from all others."""
    return f"inspection/{unique}"
