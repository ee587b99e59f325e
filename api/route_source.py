"""The proxy's route table, made from the rows. Requests read it from memory; the database may be away."""

import asyncio
from collections.abc import Iterable, Mapping

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.openai.router import ModelRoute, ModelState, Replica, RouteTable
from api.schemas.deployments import summary
from stoker.domain.deployments import InstanceState
from stoker.domain.model_routes import RouteSpec
from stoker.domain.placement.types import Placement
from stoker.domain.scaling import is_autoscaled
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.domain.workers import Worker
from stoker.mesh.ways import GatewayService, Way, way_to
from stoker.mesh.wire import main_service
from stoker.secrets import engine_key
from stoker.storage.engine import Database
from stoker.storage.known_rows import (
    KnownWorker,
    known_deployments,
    known_instances,
    known_model_routes,
    known_workers,
)

log = structlog.get_logger()

REFRESH_SECONDS = 0.4
"""Half of what a stopping instance waits before its engine may go: a withdrawn route is seen in time."""

LEAST_AGE_SECONDS = 0.05
"""Between two reads, however many requests ask for a model that is not there."""

_STATES = {
    "running": ModelState.LOADING,  # it runs, yet nothing is routable: between two looks
    "progressing": ModelState.LOADING,
    "pending": ModelState.PENDING,
    "failed": ModelState.FAILED,
    "stopped": ModelState.STOPPED,
    "deleting": ModelState.STOPPED,
}


class DatabaseRoutes:
    """The route table as last read; while the database is away, the old one goes on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = RouteTable()
        self._deployments: tuple[DeploymentStatus, ...] = ()
        self._instances: tuple[InstanceStatus, ...] = ()
        self._known_deployments, self._known_instances = known_deployments(), known_instances()
        self._known_workers, self._known_routes = known_workers(), known_model_routes()
        self._read_at = float("-inf")
        self._stale = False  # the last read failed
        self._reading = asyncio.Lock()

    def current(self) -> RouteTable:
        """The table as it was last read: at once, from memory."""
        return self._table

    def deployments(self) -> tuple[DeploymentStatus, ...]:
        """The deployments that the table was made from."""
        return self._deployments

    def instances(self) -> tuple[InstanceStatus, ...]:
        """The instances that the table was made from."""
        return self._instances

    async def refresh(self) -> RouteTable:
        """The table as a read that began after this call finds it; callers at one time share a read. Never an error."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        async with self._reading:
            if self._read_at < asked_at:  # an older read may miss what the caller has seen: that a model runs
                await asyncio.sleep(max(0.0, self._read_at + LEAST_AGE_SECONDS - asked_at))
                self._read_at = loop.time()
                try:
                    self._table, self._deployments, self._instances = await asyncio.to_thread(self._read)
                except (SQLAlchemyError, ValueError, TypeError) as error:  # away, or a row of another version
                    if not self._stale:  # once: it is tried again several times a second
                        log.error("routes_not_refreshed", error=str(error))
                    self._stale = True
                else:
                    if self._stale:
                        log.info("routes_refreshed_again")
                    self._stale = False
        return self._table

    async def run(self) -> None:
        """Keeps the table fresh, until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception:  # whatever it is, the next look may succeed; without one, no change is ever seen again
                log.exception("routes_refreshing_crashed")
            await asyncio.sleep(REFRESH_SECONDS)

    def _read(self) -> tuple[RouteTable, tuple[DeploymentStatus, ...], tuple[InstanceStatus, ...]]:
        with self._database.read() as session:
            instances = self._known_instances.read(session)
            workers = dict(self._known_workers.read(session))
            routes = self._known_routes.read(session)
            deployments = self._known_deployments.read(session)
            table = route_table(deployments, instances, workers, routes)
        return table, deployments, instances


def route_table(
    deployments: tuple[DeploymentStatus, ...],
    instances: tuple[InstanceStatus, ...],
    workers: Mapping[str, KnownWorker],
    routes: Iterable[RouteSpec] = (),
) -> RouteTable:
    """Every deployment as a model. Only instances that answered are routable, whatever their agent is doing."""
    by_deployment: dict[str, list[InstanceStatus]] = {}
    for instance in instances:
        by_deployment.setdefault(instance.deployment, []).append(instance)
    return RouteTable(
        models={
            status.spec.name: _model(status, tuple(by_deployment.get(status.spec.name, ())), workers)
            for status in deployments
        },
        routes={route.name: route for route in routes},
    )


def _model(
    status: DeploymentStatus,
    instances: tuple[InstanceStatus, ...],
    workers: Mapping[str, KnownWorker],
) -> ModelRoute:
    replicas = tuple(
        _replica(instance, instance.placement, way, workers[instance.placement.worker].engine_secret)
        for instance in _serving(status, instances)
        if instance.port and instance.placement is not None
        if instance.placement.worker in workers
        if (way := _way(instance, workers[instance.placement.worker].worker)) is not None
    )
    word, message = summary(status, instances)
    loading = next((i for i in instances if i.progress is not None), None)
    progress = loading.progress if loading else None
    return ModelRoute(
        name=status.spec.name,
        created=int(status.created_at.timestamp()),
        state=ModelState.READY if replicas else _state(status, word),
        replicas=replicas,
        queue=status.spec.queue,
        autoscaled=is_autoscaled(status.spec) and not status.deleting,
        worker=loading.placement.worker if loading and loading.placement else "",
        progress=progress.fraction if progress else None,
        message=message,
        eta_seconds=(progress.total - progress.done) / progress.rate if progress and progress.rate else None,
    )


def _state(status: DeploymentStatus, word: str) -> ModelState:
    """Without replicas. What fails on trial is about to be rolled back: what ran before it is on its way."""
    state = _STATES[word]
    return ModelState.LOADING if state is ModelState.FAILED and status.trial is not None else state


def _serving(status: DeploymentStatus, instances: tuple[InstanceStatus, ...]) -> list[InstanceStatus]:
    """The running instances that requests go to: those of the current generation, once as many run as are wanted.

    Until then those of older ones answer too: a rollout that has just begun, or that waits for room, takes nothing
    away. Each is out the moment that it is told to stop. Those still there when the rollout is through are not asked
    any more, even where nobody can stop them just now.
    """
    running = [instance for instance in instances if instance.state is InstanceState.RUNNING]
    current = [instance for instance in running if status.is_current(instance.generation)]
    return current if len(current) >= status.wanted_replicas and current else running


def _way(instance: InstanceStatus, worker: Worker) -> Way | None:
    return way_to(worker, instance.port, main_service(instance.instance_id, instance.incarnation))


def _replica(instance: InstanceStatus, placement: Placement, way: Way, engine_secret: str) -> Replica:
    return Replica(
        instance_id=instance.instance_id,
        host=way[0],
        port=way[1],
        api_key=engine_key(engine_secret, instance.instance_id, instance.incarnation),
        slots=placement.estimate.slots,
        gateway=way if isinstance(way, GatewayService) else None,
    )
