"""`/api/v1/workers`: for administrators, and (join, report) for the agents themselves."""

from datetime import datetime

import structlog
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from sqlmodel import Session
from temporalio.service import RPCError

from api.deps import (
    AdminDep,
    AfterDep,
    ApiContext,
    ContextDep,
    JoiningDep,
    LimitDep,
    ReportingWorkerDep,
    WatchDep,
    WorkerNamePath,
)
from api.errors import ProblemError, not_found, refusals
from api.schemas.pages import Page, page_of
from api.schemas.workers import WorkerRead
from api.watch import watch_response
from stoker.domain.claims import Snapshot
from stoker.domain.deployments import InstanceState
from stoker.domain.reports import HeldIncarnation, JoinAnswer, ReportAnswer, WorkerReport
from stoker.domain.statuses import WorkerStatus
from stoker.secrets import new_secret, new_worker_credential
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers

log = structlog.get_logger()
router = APIRouter(prefix="/workers", tags=["workers"])

_UNDER_WAY = (InstanceState.DOWNLOADING, InstanceState.STARTING)

REFUSALS = refusals(401, 403, 404, 413, 422, 503)


@router.get("", responses=REFUSALS, response_model=Page[WorkerRead])
async def list_workers(
    context: ContextDep, _: AdminDep, limit: LimitDep = 100, after: AfterDep = "", watch: WatchDep = False
) -> Page[WorkerRead] | StreamingResponse:
    """All workers, by name."""

    def identified(session: Session, now: datetime) -> list[tuple[str, WorkerRead]]:
        return [(status.worker.name, WorkerRead.of_status(status)) for status in Workers(session, now).all()]

    if watch:
        return watch_response(lambda: context.read(identified))
    # Sorted here: databases differ in how they order '-'.
    items = sorted((name, item) for name, item in await context.read(identified) if name > after)[: limit + 1]
    return page_of([item for _, item in items], [name for name, _ in items], limit)


@router.get("/{name}", responses=REFUSALS)
async def get_worker(name: WorkerNamePath, context: ContextDep, _: AdminDep) -> WorkerRead:
    """One worker with its devices, and what is claimed and in use on each."""
    status = await context.read(lambda session, now: Workers(session, now).get(name))
    if status is None:
        raise not_found("worker", name)
    return WorkerRead.of_status(status)


@router.post("/{name}/join", dependencies=[JoiningDep], responses=REFUSALS)
async def join_worker(name: WorkerNamePath, report: WorkerReport, context: ContextDep) -> JoinAnswer:
    """For agents: joins (again) with the cluster's join token, and gets the worker's own credential."""
    _check_name(name, report)
    credential = new_worker_credential()
    digest = context.secret.digest(credential)

    def join(session: Session, now: datetime) -> str:
        return Workers(session, now).join(report.worker, credential_hash=digest, engine_secret=new_secret())

    engine_secret = await context.write(join)
    log.info("worker_joined", worker=name)
    await _wake_who_fits(context)
    return JoinAnswer(credential=credential, engine_secret=engine_secret)


@router.post("/{name}/report", responses=REFUSALS)
async def report_worker(name: ReportingWorkerDep, report: WorkerReport, context: ContextDep) -> ReportAnswer:
    """For agents: what the worker looks like now. The answer says which incarnations rightly run there."""
    _check_name(name, report)

    def take(session: Session, now: datetime) -> tuple[WorkerStatus | None, WorkerStatus | None]:
        workers, instances = Workers(session, now), Instances(session, now)
        before = workers.get(name)
        workers.report(report.worker)
        for instance_id, progress in report.progress.items():
            instance = instances.get(instance_id)
            if instance is not None and instance.state in _UNDER_WAY:  # the agent remembers it a little longer
                instances.set_progress(instance_id, name, progress)
        session.flush()
        return before, workers.get(name)

    before, after = await context.write(take)
    if before is None or after is None:
        raise not_found("worker", name)
    if _gained_room(before, after):
        await _wake_who_fits(context)
    held = {(claim.instance_id, claim.incarnation) for claim in after.claims}
    return ReportAnswer(held=tuple(HeldIncarnation(instance_id=i, incarnation=n) for i, n in sorted(held)))


def _check_name(name: str, report: WorkerReport) -> None:
    if report.worker.name != name:
        raise ProblemError("invalid_request", f"the report is of {report.worker.name!r}, not of {name!r}")


def _gained_room(before: WorkerStatus, after: WorkerStatus) -> bool:
    """Whether something may fit now that did not before: the worker is back or changed, or a device has more free."""
    old, new = before.worker, after.worker
    if (old.state, old.labels, old.engine) != (new.state, new.labels, new.engine):
        return True
    had = Snapshot.of([old], before.claims)
    has = Snapshot.of([new], after.claims)
    previous = {device.id: had.allocatable(old, device) for device in old.devices}
    return any(has.allocatable(new, device) > previous.get(device.id, 0) for device in new.devices)


async def _wake_who_fits(context: ApiContext) -> None:
    """Tells exactly the pending instances that fit now. Should Temporal be away, their safety timers find it out."""
    woken = await context.in_thread(context.ledger.wakeable)
    try:
        await context.instances.wake(woken)
    except (RPCError, RuntimeError) as error:
        log.warning("pending_not_woken", instances=woken, error=str(error))
