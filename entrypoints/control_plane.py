"""`stoker control-plane`: the workflows, the activities of the control queue, and three looks at the rows.

Once a minute for who fits (`waking`), and every few seconds for whose worker is lost (`absence`) and for how much is
asked of whom (`scaling`).
"""

import asyncio
import gc
import signal
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry
from temporalio.client import Client
from temporalio.worker import Worker

from activities.drains import DrainActivities
from activities.estimation import EstimationActivities
from activities.files import FileActivities
from activities.links import LinkActivities
from activities.placement import PlacementActivities
from activities.ports import Ledger, ModelHub
from activities.projection import ProjectionActivities
from entrypoints.absence import keep_watch
from entrypoints.clock import utc_now
from entrypoints.concurrency import first_of
from entrypoints.data_folder import header_cache
from entrypoints.placement_metrics import CountedLedger, control_registry, metrics_page
from entrypoints.rescaling import RescaleCalls
from entrypoints.scaling import keep_scaling
from entrypoints.tracing import close, interceptors, tracing_of
from entrypoints.waking import keep_waking
from stoker.domain.naming import CONTROL_QUEUE
from stoker.remote_models import remote_models
from stoker.settings import Settings
from stoker.storage.absence import AbsenceWatch
from stoker.storage.claims import ClaimLedger
from stoker.storage.demand import DemandWatch
from stoker.storage.engine import Database
from stoker.storage.files import RowFileHolders
from stoker.storage.links import RowLinks
from stoker.storage.occupancy import RowOccupancy
from stoker.storage.projections import RowProjections
from stoker.temporal import (
    TemporalInstanceCalls,
    connect,
    quiet_runtime,
    register_search_attributes,
    workflow_runner,
)
from stoker.version import VERSION
from workflows.deployment import Deployment
from workflows.drain import Drain
from workflows.eviction import Eviction
from workflows.inspection import Inspection
from workflows.instance import Instance

log = structlog.get_logger()

WORKFLOWS = [Deployment, Instance, Inspection, Drain, Eviction]


async def run_control_plane(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Waits for Temporal as long as it takes.

    Raises TracingMissingError, MetricsPortError.
    """
    registry = control_registry()
    with metrics_page(settings.control_plane, registry):
        await _run(settings, registry)


async def _run(settings: Settings, registry: CollectorRegistry) -> None:
    tracing = tracing_of(settings, "control-plane")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect(
        settings.temporal.address,
        identity="control-plane",
        wait_seconds=float("inf"),
        runtime=quiet_runtime(),
        interceptors=interceptors(tracing),
    )
    await register_search_attributes(client)
    database = Database(settings.database_url)
    models = remote_models(header_cache(settings))
    ledger = ClaimLedger(database, utc_now, pending_hold=settings.pending_hold)
    worker = control_worker(client, database, models, ledger=CountedLedger(ledger, registry))
    async with worker:
        gc.freeze()  # what start-up left stays for good: to look through it for garbage takes 60 ms, and all work waits
        log.info("control_plane_ready", queue=CONTROL_QUEUE)
        calls = TemporalInstanceCalls(client)
        absence = AbsenceWatch(database, settings.worker_grace)
        scaling = keep_scaling(DemandWatch(database, utc_now), RescaleCalls(client, database))
        await first_of(stop.wait(), keep_waking(ledger, calls), keep_watch(absence, calls), scaling)
    database.close()
    await close(tracing)
    await asyncio.sleep(
        0.1
    )  # lets the SDK's threads end: without it the interpreter may crash at exit (sdk-python #300)


def control_worker(
    client: Client,
    database: Database,
    hub: ModelHub,
    *,
    ledger: Ledger | None = None,
    max_cached_workflows: int = 2000,
) -> Worker:
    """What takes work from the control queue: all workflows, and the activities beside them.

    `ledger`: who holds what by that database; None: one of its own, with `pending_hold` at its default.
    """
    ledger = ledger or ClaimLedger(database, utc_now)
    placement = PlacementActivities(ledger, TemporalInstanceCalls(client))
    projection = ProjectionActivities(RowProjections(database, utc_now))
    estimation = EstimationActivities(hub)
    drains = DrainActivities(RowOccupancy(database, utc_now))
    files = FileActivities(RowFileHolders(database, utc_now))
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
            drains.look_at_worker,
            drains.stop_draining,
            files.look_for_files,
            LinkActivities(RowLinks(database)).keep_links,
        ],
        workflow_runner=workflow_runner(),
        build_id=VERSION,  # else the SDK reads and hashes all loaded code first: 1.5 s of a core
        max_cached_workflows=max_cached_workflows,
        graceful_shutdown_timeout=timedelta(seconds=5),
    )
