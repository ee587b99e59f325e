"""What happened to a deployment and its instances: read from their workflows' histories, for nothing else keeps it.

A history is read from where its present run began: an instance's incarnation, a deployment since it last continued
as new.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from api.errors import TemporalAwayError
from stoker.domain.base import DeploymentName, InstanceId, Value
from stoker.domain.naming import deployment_workflow_id, instance_workflow_id
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.statuses import DeploymentProjection, InstanceProjection

MOST_INSTANCES = 8
MOST_EVENTS = 50
ANSWER_WITHIN = timedelta(seconds=5)

_MOST_READ = 2000  # of one history's own events: one that is longer has a deployment of a thousand instances

T = TypeVar("T", bound=Value)


class DeploymentEvent(NamedTuple):
    """One thing that happened."""

    at: datetime
    subject: str  # an instance's id; empty: the deployment itself
    state: str  # which was entered
    message: str


class _Placed(Value):
    """The result of `place`, as far as it is told here."""

    placement: Placement | None = None
    unplaceable: Unplaceable | None = None


async def deployment_events(
    client: Client, name: DeploymentName, instance_ids: Sequence[InstanceId]
) -> list[DeploymentEvent]:
    """The last MOST_EVENTS of the deployment and its first MOST_INSTANCES instances, the latest first.

    Raises ProblemError when Temporal does not answer. What has no history any more has no events.
    """
    try:
        async with asyncio.timeout(ANSWER_WITHIN.total_seconds()):
            found = await asyncio.gather(
                _of_deployment(client, name), *(_of_instance(client, one) for one in instance_ids[:MOST_INSTANCES])
            )
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise TemporalAwayError(
            "temporal_unavailable", "what happened is kept by Temporal, which does not answer now"
        ) from error
    events = [event for history in found for event in history]
    return sorted(events, key=lambda event: event.at, reverse=True)[:MOST_EVENTS]


async def _of_deployment(client: Client, name: DeploymentName) -> list[DeploymentEvent]:
    events = []
    async for event in _history(client, deployment_workflow_id(name)):
        if _scheduled(event) != "project_deployment":
            continue
        shown = await _decoded(client, event.activity_task_scheduled_event_attributes.input, DeploymentProjection)
        wanted = f"generation {shown.generation}: {shown.spec.replicas} of {shown.spec.model}"
        state = "deleting" if shown.deleting else "wanted"
        events.append(DeploymentEvent(_moment(event), "", state, "" if shown.deleting else wanted))
    return events


async def _of_instance(client: Client, instance_id: InstanceId) -> list[DeploymentEvent]:
    events: list[DeploymentEvent] = []
    placing: set[int] = set()

    def enter(event: HistoryEvent, state: str, message: str) -> None:
        if not events or (events[-1].state, events[-1].message) != (state, message):
            events.append(DeploymentEvent(_moment(event), instance_id, state, message))

    async for event in _history(client, instance_workflow_id(instance_id)):
        asked = _scheduled(event)
        if asked == "place":
            placing.add(event.event_id)
            enter(event, "placing", "")
        elif asked == "project_instance":
            attributes = event.activity_task_scheduled_event_attributes
            shown = await _decoded(client, attributes.input, InstanceProjection)
            enter(event, shown.state, shown.message)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            done = event.activity_task_completed_event_attributes
            if done.scheduled_event_id not in placing:
                continue
            outcome = await _decoded(client, done.result, _Placed)
            if outcome.unplaceable is not None:
                enter(event, "pending", outcome.unplaceable.summary)
            elif outcome.placement is not None:
                enter(event, "placed", f"on {', '.join(outcome.placement.workers)}: {outcome.placement.reason}")
    return events


async def _history(client: Client, workflow_id: str) -> AsyncIterator[HistoryEvent]:
    read = 0
    try:
        async for event in client.get_workflow_handle(workflow_id).fetch_history_events(rpc_timeout=ANSWER_WITHIN):
            yield event
            read += 1
            if read == _MOST_READ:
                return
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


def _scheduled(event: HistoryEvent) -> str:
    """The activity that was asked for; empty: the event is another one."""
    if event.event_type != EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        return ""
    return event.activity_task_scheduled_event_attributes.activity_type.name


async def _decoded(client: Client, payloads: Payloads, kind: type[T]) -> T:
    values: list[Any] = await client.data_converter.decode(payloads.payloads, [kind])
    found: T = values[0]
    return found


def _moment(event: HistoryEvent) -> datetime:
    return event.event_time.ToDatetime(UTC)
