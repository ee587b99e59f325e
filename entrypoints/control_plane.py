"""`stoker control-plane`: the workflows, and the activities of the control queue."""

import asyncio
import signal
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from activities.estimation import EstimationActivities
from activities.placement import PlacementActivities
from activities.ports import ModelHub
from activities.projection import ProjectionActivities
from entrypoints.clock import utc_now
from entrypoints.data_folder import header_cache
from stoker.domain.naming import CONTROL_QUEUE
from stoker.remote_models import remote_models
from stoker.settings import Settings
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.projections import RowProjections
from stoker.temporal import TemporalInstanceCalls, connect, quiet_runtime, register_search_attributes, workflow_runner
from workflows.deployment import Deployment
from workflows.inspection import Inspection
from workflows.instance import Instance

log = structlog.get_logger()

WORKFLOWS = [Deployment, Instance, Inspection]


async def run_control_plane(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Waits for Temporal as long as it takes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect(
        settings.temporal.address, identity="control-plane", wait_seconds=float("inf"), runtime=quiet_runtime()
    )
    await register_search_attributes(client)
    database = Database(settings.database_url)
    worker = control_worker(client, database, remote_models(header_cache(settings)))
    async with worker:
        log.info("control_plane_ready", queue=CONTROL_QUEUE)
        await stop.wait()
    database.close()
    await asyncio.sleep(
        0.1
    )  # lets the SDK's threads end: without it the interpreter may crash at exit (sdk-python #300)


def control_worker(client: Client, database: Database, hub: ModelHub, *, max_cached_workflows: int = 2000) -> Worker:
    """What takes work from the control queue: all workflows, and the activities beside them."""
    placement = PlacementActivities(ClaimLedger(database, utc_now), TemporalInstanceCalls(client))
    projection = ProjectionActivities(RowProjections(database, utc_now))
    estimation = EstimationActivities(hub)
    return Worker(
        client,
        task_queue=CONTROL_QUEUE,
        workflows=WORKFLOWS,
        activities=[
            placement.place,
            placement.release,
            placement.ready_workers,
            placement.sweep_instances,
            projection.project_deployment,
            projection.remove_deployment,
            projection.project_instance,
            projection.remove_instance,
            estimation.inspect_hub_model,
            estimation.estimate_model,
        ],
        workflow_runner=workflow_runner(),
        max_cached_workflows=max_cached_workflows,
        graceful_shutdown_timeout=timedelta(seconds=5),
    )
