"""What takes work from a host's queues in Temporal."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Interceptor, PollerBehaviorAutoscaling
from temporalio.worker import Worker as TemporalWorker

from activities.downloads import DownloadActivities
from activities.groups import GroupActivities
from activities.ports import HostMesh
from activities.servers import ServerActivities
from stoker.domain.base import WorkerName
from stoker.domain.naming import download_queue, worker_queue
from stoker.version import VERSION
from worker_agent.model_store import HostModelStore
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor

MAX_PROCESSES = 1000  # endless activities each hold a slot
MAX_DOWNLOADS = 4
HEARTBEAT_THROTTLE = timedelta(seconds=10)
"""Bounds how late a cancellation is seen where the server cannot push it."""

POLLERS = PollerBehaviorAutoscaling(minimum=1, maximum=5, initial=1)
"""Hosts are many and have little to do: five long polls on each queue would be most of Temporal's work."""


def host_workers(
    client: Client,
    name: WorkerName,
    supervisor: HostSupervisor,
    store: HostModelStore,
    board: ProgressBoard,
    *,
    interceptors: Sequence[Interceptor] = (),
    mesh: HostMesh | None = None,
) -> tuple[TemporalWorker, TemporalWorker]:
    """What takes work from a host's two queues: control of its processes, and downloads, which never hold it up.

    `mesh`: the host as a member of groups; None: it is in none.
    """
    servers = ServerActivities(supervisor)
    groups = GroupActivities(supervisor, mesh) if mesh is not None else None
    of_groups: list[Callable[..., Any]] = (
        [groups.serve_rpc, groups.serve_link, groups.check_links] if groups is not None else []
    )
    downloads = DownloadActivities(store, board.show)
    control = TemporalWorker(
        client,
        task_queue=worker_queue(name),
        activities=[*of_groups, servers.serve_main, servers.drain_main, downloads.inspect_file, downloads.evict_model],
        max_concurrent_activities=MAX_PROCESSES,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(0),  # endless activities never finish by themselves
        interceptors=interceptors,
        activity_task_poller_behavior=POLLERS,
        build_id=VERSION,
    )
    download = TemporalWorker(
        client,
        task_queue=download_queue(name),
        activities=[downloads.fetch_model],
        max_concurrent_activities=MAX_DOWNLOADS,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(0),
        interceptors=interceptors,
        activity_task_poller_behavior=POLLERS,
        build_id=VERSION,
    )
    return control, download
