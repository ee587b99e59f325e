"""`/api/v1/instances`."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import httpx
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlmodel import Session

from api.agents import WAY
from api.deps import AdminDep, AfterDep, ApiContext, ContextDep, InstancePath, LimitDep, WatchDep
from api.errors import ProblemError, not_found, refusals
from api.schemas.instances import InstanceRead
from api.schemas.pages import Page, page_of
from api.watch import watch_response
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN
from stoker.domain.statuses import InstanceStatus, WorkerStatus
from stoker.domain.workers import Worker
from stoker.mesh.ways import way_to
from stoker.mesh.wire import AGENT_SERVICE
from stoker.secrets import agent_key
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers

router = APIRouter(prefix="/instances", tags=["instances"])

REFUSALS = refusals(401, 403, 404, 422, 502, 503)


@router.get("", responses=REFUSALS, response_model=Page[InstanceRead])
async def list_instances(
    context: ContextDep,
    _: AdminDep,
    deployment: Annotated[
        str | None, Query(pattern=DEPLOYMENT_NAME_PATTERN, description="Only this deployment's.")
    ] = None,
    limit: LimitDep = 100,
    after: AfterDep = "",
    watch: WatchDep = False,
) -> Page[InstanceRead] | StreamingResponse:
    """All instances, by id."""
    if watch:

        def identified(session: Session, now: datetime) -> list[tuple[str, InstanceRead]]:
            found = Instances(session, now).all(deployment=deployment)
            return [(status.instance_id, InstanceRead.of_status(status)) for status in found]

        return watch_response(context.stopping, lambda: context.read(identified))
    items = await context.read(
        lambda session, now: Instances(session, now).all(deployment=deployment, after=after, limit=limit + 1)
    )
    return page_of([InstanceRead.of_status(item) for item in items], [item.instance_id for item in items], limit)


@router.get("/{instance_id}", responses=REFUSALS)
async def get_instance(instance_id: InstancePath, context: ContextDep, _: AdminDep) -> InstanceRead:
    """One instance: its placement and estimate, or why it waits."""
    status = await context.read(lambda session, now: Instances(session, now).get(instance_id))
    if status is None:
        raise not_found("instance", instance_id)
    return InstanceRead.of_status(status)


@router.get("/{instance_id}/logs", responses=REFUSALS, response_class=StreamingResponse)
async def get_instance_logs(
    instance_id: InstancePath,
    context: ContextDep,
    _: AdminDep,
    tail: Annotated[int, Query(ge=0, le=10_000, description="How many of the last lines.")] = 200,
    follow: Annotated[bool, Query(description="Go on with new lines until the client leaves.")] = False,
) -> StreamingResponse:
    """What the instance's processes wrote, as plain text, from the host where they run or ran last."""

    def read(session: Session, now: datetime) -> tuple[InstanceStatus | None, WorkerStatus | None, str]:
        workers = Workers(session, now)
        status = Instances(session, now).get(instance_id)
        if status is None or status.placement is None:
            return status, None, ""
        name = status.placement.worker
        return status, workers.get(name), workers.engine_secrets().get(name, "")

    status, worker, engine_secret = await context.read(read)
    if status is None:
        raise not_found("instance", instance_id)
    if worker is None:
        raise ProblemError("not_found", f"{instance_id} is {status.state}: it has no place yet, and so no logs")
    upstream = await _asked(context, worker.worker, engine_secret, instance_id, tail, follow)
    return StreamingResponse(_piped(upstream), media_type="text/plain; charset=utf-8")


async def _asked(
    context: ApiContext, worker: Worker, engine_secret: str, instance_id: str, tail: int, follow: bool
) -> httpx.Response:
    """The agent's answer, of which only the headers are read. Raises ProblemError."""
    way = way_to(worker, worker.agent_port, AGENT_SERVICE)
    if way is None:
        raise ProblemError("worker_unreachable", f"{worker.name} has no gateway yet, by which its agent is reached")
    try:
        request = context.agents.build_request(
            "GET",
            f"http://agent/logs/{instance_id}",
            params={"tail": tail, "follow": follow},
            headers={"authorization": f"Bearer {agent_key(engine_secret)}"},
            timeout=httpx.Timeout(10.0, read=None if follow else 30.0),
            extensions={WAY: way},
        )
        upstream = await context.agents.send(request, stream=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProblemError(
            "worker_unreachable", f"the agent of {worker.name} does not answer for its logs: {error}"
        ) from error
    if upstream.status_code == httpx.codes.OK:
        return upstream
    await upstream.aclose()
    if upstream.status_code == httpx.codes.NOT_FOUND:
        raise not_found("log of instance", instance_id)
    raise ProblemError(
        "worker_unreachable", f"the agent of {worker.name} answered {upstream.status_code} when asked for its logs"
    )


async def _piped(upstream: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in upstream.aiter_bytes():
            yield chunk
    finally:
        await upstream.aclose()
