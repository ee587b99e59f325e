"""`/api/v1/workers`: for administrators, and (join, report) for the agents themselves."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from sqlmodel import Session
from temporalio.service import RPCError

from api.audit import note
from api.deps import (
    AdminDep,
    AfterDep,
    ApiContext,
    ContextDep,
    LimitDep,
    WatchDep,
    WorkerCredentialDep,
    WorkerNamePath,
    check_credential,
    worker_removed,
)
from api.drain_calls import begin_drain, call_off_drain
from api.errors import ProblemError, not_found, refusals
from api.joining import JoiningDep
from api.removal_calls import remove
from api.schemas.pages import Page, page_of
from api.schemas.placements import WhatIfRead
from api.schemas.workers import WorkerRead, WorkerRemoved
from api.watch import watch_response
from api.what_if_calls import preview_drain
from stoker.domain.base import InstanceId
from stoker.domain.deployments import InstanceState
from stoker.domain.reports import JoinAnswer, ReportAnswer, WorkerReport
from stoker.secrets import new_secret, new_worker_credential
from stoker.storage.engine import take_claiming_lock
from stoker.storage.instances import Instances
from stoker.storage.reports import Reporter, Reports, Taken
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
        return watch_response(context.stopping, lambda: context.read(identified))
    # Sorted here: databases differ in how they order '-'.
    items = sorted((name, item) for name, item in await context.read(identified) if name > after)[: limit + 1]
    return page_of([item for _, item in items], [name for name, _ in items], limit)


@router.get("/{name}", responses=REFUSALS, response_model=WorkerRead)
async def get_worker(
    name: WorkerNamePath, context: ContextDep, _: AdminDep, watch: WatchDep = False
) -> WorkerRead | StreamingResponse:
    """One worker with its devices, and what is claimed and in use on each."""

    def found(session: Session, now: datetime) -> list[tuple[str, WorkerRead]]:
        status = Workers(session, now).get(name)
        return [(name, WorkerRead.of_status(status))] if status is not None else []

    shown = await _shown(context, name)
    return watch_response(context.stopping, lambda: context.read(found)) if watch else shown


@router.post("/{name}/cordon", responses=REFUSALS)
async def cordon_worker(name: WorkerNamePath, context: ContextDep, _: AdminDep) -> WorkerRead:
    """From here on the worker gets nothing new, and keeps what it has. One that is being drained goes on with it."""
    note.concerns("worker", name)
    if not await context.in_thread(lambda: context.ledger.cordon(name)):
        raise not_found("worker", name)
    log.info("worker_cordoned", worker=name)
    return await _shown(context, name)


@router.post("/{name}/uncordon", responses=REFUSALS)
async def uncordon_worker(name: WorkerNamePath, context: ContextDep, _: AdminDep) -> WorkerRead:
    """The worker gets new instances again. A drain of it is called off: what it still has stays."""
    note.concerns("worker", name)
    woken = await context.in_thread(lambda: context.ledger.uncordon(name))
    if woken is None:
        raise not_found("worker", name)
    log.info("worker_uncordoned", worker=name)
    try:
        await call_off_drain(context.temporal, name)
    except (RPCError, RuntimeError) as error:  # the drain finds it out by itself at its next look
        log.warning("drain_not_told", worker=name, error=str(error))
    await _wake(context, woken)
    return await _shown(context, name)


@router.post(
    "/{name}/drain",
    status_code=202,
    responses={200: {"model": WhatIfRead, "description": "A dry run: nothing was changed."}, **REFUSALS},
)
async def drain_worker(
    name: WorkerNamePath,
    response: Response,
    context: ContextDep,
    _: AdminDep,
    dry_run: Annotated[bool, Query(description="Only tell what would move, and change nothing.")] = False,
) -> WhatIfRead:
    """Begins to move the worker's instances elsewhere (202), one by one; it gets nothing new from here on.

    The answer is what would move now. One that fits nowhere else for want of room stops, and waits for room; uncordon
    calls the drain off. The worker is empty when its `instances` are.
    """
    preview = WhatIfRead.of_drain(await preview_drain(context, name))
    if dry_run:
        note.changes_nothing()
        response.status_code = 200
        return preview
    note.concerns("worker", name)
    if not await context.in_thread(lambda: context.ledger.drain(name)):
        raise not_found("worker", name)
    log.info("worker_draining", worker=name, instances=len(preview.moves), fits=preview.fits)
    await begin_drain(context.temporal, name)
    response.headers["location"] = f"/api/v1/workers/{name}"
    return preview


@router.delete("/{name}", responses={**REFUSALS, **refusals(409)})
async def remove_worker(
    name: WorkerNamePath,
    context: ContextDep,
    _: AdminDep,
    force: Annotated[
        bool, Query(description="Also one that holds something: its instances go on elsewhere, those that find room.")
    ] = False,
) -> WorkerRemoved:
    """Takes a worker out of the cluster, and revokes its certificates: the other workers know within ten seconds.

    One that still holds something is refused (409): drain it first, or say `force`. To come back it must join again.
    """
    note.concerns("worker", name)
    removed = await remove(context, name, force=force)
    return WorkerRemoved(name=name, instances=list(removed.instances), certificates_revoked=removed.certificates)


@router.post("/{name}/join", responses={**REFUSALS, **refusals(409)})
async def join_worker(name: WorkerNamePath, report: WorkerReport, context: ContextDep, token: JoiningDep) -> JoinAnswer:
    """For agents: joins (again) with a join token, and gets the worker's own credential.

    The cluster's own token lets any number join, and join again; one that an administrator made lets a new one join.
    That one's labels come before the worker's own.
    """
    _check_name(name, report)
    credential = new_worker_credential()
    digest = context.secret.digest(credential)

    def join(session: Session, now: datetime) -> tuple[str, dict[str, str]]:
        take_claiming_lock(session)
        labels = token.use(session, now, name) if token is not None else {}
        worker = report.worker.model_copy(update={"labels": {**report.worker.labels, **labels}})
        secret = Workers(session, now).join(
            worker, credential_hash=digest, engine_secret=new_secret(), settled=report.settled
        )
        return secret, labels

    engine_secret, labels = await context.write(join)
    log.info("worker_joined", worker=name, token=token.id if token is not None else "the cluster's own")
    await _wake_who_fits(context)
    return JoinAnswer(credential=credential, engine_secret=engine_secret, labels=labels)


@router.post("/{name}/report", responses=REFUSALS)
async def report_worker(
    name: WorkerNamePath, credential: WorkerCredentialDep, report: WorkerReport, context: ContextDep
) -> ReportAnswer:
    """For agents: what the worker looks like now. The answer says which incarnations rightly run there."""

    def take(session: Session, now: datetime) -> tuple[Reporter, Taken]:
        reports = Reports(session, now)
        known = reports.known(name)
        digest = known.credential_hash if known is not None else None
        check_credential(session, context.secret, name, credential, digest)
        _check_name(name, report)
        taken = reports.take(known, report) if known is not None else None
        if known is None or taken is None:  # at this very moment
            raise worker_removed(name)
        instances = Instances(session, now)
        for instance_id, progress in report.progress.items():
            instance = instances.get(instance_id)
            if instance is not None and instance.state in _UNDER_WAY:  # the agent remembers it a little longer
                instances.set_progress(instance_id, name, progress)
        return known, taken

    known, taken = await context.write(take)
    standing = taken.standing
    if standing.confirms is not None:
        ended = partial(context.ledger.confirm_ended, name, standing.confirms, standing.version)
        await _wake(context, await context.in_thread(ended))
    if taken.gained_room:
        await _wake_who_fits(context)
    return ReportAnswer(held=standing.held, version=standing.version, revoked=known.revoked)


def _check_name(name: str, report: WorkerReport) -> None:
    if report.worker.name != name:
        raise ProblemError("invalid_request", f"the report is of {report.worker.name!r}, not of {name!r}")


async def _shown(context: ApiContext, name: str) -> WorkerRead:
    status = await context.read(lambda session, now: Workers(session, now).get(name))
    if status is None:
        raise not_found("worker", name)
    return WorkerRead.of_status(status)


async def _wake_who_fits(context: ApiContext) -> None:
    """Tells exactly the pending instances that fit now."""
    await _wake(context, await context.in_thread(context.ledger.wakeable))


async def _wake(context: ApiContext, woken: Sequence[InstanceId]) -> None:
    """Tells them that they may fit. Should Temporal be away, the control plane's look once a minute finds it out."""
    try:
        await context.instances.wake(woken)
    except (RPCError, RuntimeError) as error:
        log.warning("pending_not_woken", instances=woken, error=str(error))
