"""Instances that ran later than the others, and what their workflows waited for."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.service import RPCError

from stoker.domain.naming import instance_workflow_id

MOST = 10  # of which the story is told
_LAST = 8  # events of each
_LONGEST = 3  # pauses of each


async def laggards(client: Client, instances: Iterable[str], *, until_running: bool) -> list[dict[str, Any]]:
    """The stories of some instances, the first few by id. `until_running`: they run by now, and ran late."""
    ids = sorted(instances)[:MOST]
    return list(await asyncio.gather(*(_story(client, one, until_running=until_running) for one in ids)))


async def _story(client: Client, instance_id: str, *, until_running: bool) -> dict[str, Any]:
    handle = client.get_workflow_handle(instance_workflow_id(instance_id))
    try:
        described = await handle.describe()
        events = [event async for event in handle.fetch_history_events()]
    except RPCError as error:
        return {"instance": instance_id, "unknown": error.message}
    began = _seconds(events[0])
    story: dict[str, Any] = {
        "instance": instance_id,
        "run_seconds": round(_seconds(events[-1]) - began, 1),
        "longest": longest_pauses(events),
        "waits_for": [
            {
                "activity": pending.activity_type.name,
                "state": PendingActivityState.Name(pending.state).removeprefix("PENDING_ACTIVITY_STATE_").lower(),
                "attempt": pending.attempt,
                "scheduled_after": round(pending.scheduled_time.ToNanoseconds() / 1e9 - began, 1),
                "last_failure": pending.last_failure.message,
            }
            for pending in described.raw_description.pending_activities
        ],
    }
    if not until_running:
        story["last"] = [f"{_seconds(event) - began:.1f} s {_name(event, events)}" for event in events[-_LAST:]]
    return story


def longest_pauses(events: Sequence[HistoryEvent]) -> list[str]:
    """The longest times between one event of a history and the next, the longest first."""
    pauses = [
        (_seconds(after) - _seconds(before), _name(before, events), _name(after, events))
        for before, after in pairwise(events)
    ]
    longest = sorted(pauses, key=lambda pause: -pause[0])[:_LONGEST]
    return [f"{seconds:.1f} s from {before} to {after}" for seconds, before, after in longest]


def _seconds(event: HistoryEvent) -> float:
    return event.event_time.ToNanoseconds() / 1e9


def _name(event: HistoryEvent, events: Sequence[HistoryEvent]) -> str:
    """The event's type, with what it is about: the activity, the signal, and the attempt and its failure."""
    kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
    what: Any = getattr(event, event.WhichOneof("attributes") or "", None)
    if hasattr(what, "scheduled_event_id") and kind.startswith("activity"):
        scheduled = events[what.scheduled_event_id - 1].activity_task_scheduled_event_attributes
        kind += f" {scheduled.activity_type.name}"
        if getattr(what, "attempt", 1) > 1:
            kind += f", attempt {what.attempt}, after {what.last_failure.message!r}"
    elif kind == "activity_task_scheduled":
        kind += f" {what.activity_type.name}"
    elif hasattr(what, "signal_name"):
        kind += f" {what.signal_name}"
    return kind
