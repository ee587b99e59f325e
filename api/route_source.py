"""The proxy's route table, made from the rows. Requests read it from memory; the database may be away."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.openai.router import ModelRoute, ModelState, Replica, RouteTable
from api.schemas.deployments import summary
from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import DeploymentStatus, InstanceStatus, WorkerStatus
from stoker.secrets import engine_key
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers

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

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock
        self._table = RouteTable()
        self._instances: tuple[InstanceStatus, ...] = ()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    def current(self) -> RouteTable:
        """The table as it was last read: at once, from memory."""
        return self._table

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
                    self._table, self._instances = await asyncio.to_thread(self._read)
                except (SQLAlchemyError, ValueError, TypeError) as error:  # away, or a row of another version
                    log.error("routes_not_refreshed", error=str(error))
        return self._table

    async def run(self) -> None:
        """Keeps the table fresh, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    def _read(self) -> tuple[RouteTable, tuple[InstanceStatus, ...]]:
        with self._database.read() as session:
            now = self._clock()
            workers, instances = Workers(session, now), Instances(session, now).all()
            table = route_table(
                Deployments(session, now).all(),
                instances,
                {status.worker.name: status for status in workers.all()},
                workers.engine_secrets(),
            )
        return table, instances


def route_table(
    deployments: tuple[DeploymentStatus, ...],
    instances: tuple[InstanceStatus, ...],
    workers: Mapping[str, WorkerStatus],
    engine_secrets: Mapping[str, str],
) -> RouteTable:
    """Every deployment as a model. Only instances that answered are routable, whatever their agent is doing."""
    by_deployment: dict[str, list[InstanceStatus]] = {}
    for instance in instances:
        by_deployment.setdefault(instance.deployment, []).append(instance)
    return RouteTable(
        models={
            status.spec.name: _model(status, tuple(by_deployment.get(status.spec.name, ())), workers, engine_secrets)
            for status in deployments
        }
    )


def _model(
    status: DeploymentStatus,
    instances: tuple[InstanceStatus, ...],
    workers: Mapping[str, WorkerStatus],
    engine_secrets: Mapping[str, str],
) -> ModelRoute:
    replicas = tuple(
        Replica(
            instance_id=instance.instance_id,
            host=workers[instance.placement.worker].worker.address,
            port=instance.port,
            api_key=engine_key(engine_secrets[instance.placement.worker], instance.instance_id, instance.incarnation),
            slots=instance.placement.estimate.slots,
        )
        for instance in instances
        if instance.state is InstanceState.RUNNING and instance.port and instance.placement is not None
        if instance.placement.worker in workers
    )
    word, message = summary(status, instances)
    loading = next((i for i in instances if i.progress is not None), None)
    progress = loading.progress if loading else None
    return ModelRoute(
        name=status.spec.name,
        created=int(status.created_at.timestamp()),
        state=ModelState.READY if replicas else _STATES[word],
        replicas=replicas,
        worker=loading.placement.worker if loading and loading.placement else "",
        progress=progress.fraction if progress else None,
        message=message,
        eta_seconds=(progress.total - progress.done) / progress.rate if progress and progress.rate else None,
    )
