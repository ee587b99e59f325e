"""Which workers an instance keeps away from after a failure, where it finds room elsewhere."""

from typing import TypedDict

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.types import ProcessEnd
    from stoker.domain.base import WorkerName
    from stoker.domain.placement.types import Placement
    from workflows import options
    from workflows.types import InstanceInput


class Avoided(TypedDict):
    """The fields of an `InstanceInput` that say it."""

    avoid: tuple[WorkerName, ...]
    avoid_until: dict[WorkerName, float]


def avoided_now(input: InstanceInput, now: float) -> tuple[WorkerName, ...]:
    """Those that are avoided still. Pure; `now` in Unix seconds."""
    return tuple(worker for worker in input.avoid if input.avoid_until.get(worker, now + 1) > now)


def avoided_after(input: InstanceInput, placement: Placement | None, end: ProcessEnd, now: float) -> Avoided:
    """The next incarnation's fields. Pure; `now` in Unix seconds.

    One that was alone on a worker avoids that, once. A group avoids the one whose fault its end was, for a while: to
    keep away from all its members would leave too few, and for an end that was nobody's fault, none.
    """
    until = {worker: time for worker, time in input.avoid_until.items() if time > now}
    members = placement.workers if placement is not None else ()
    alone = members if len(members) == 1 else ()
    if not alone and end.worker:
        until[end.worker] = now + options.AVOID_FAILED.total_seconds()
    return {"avoid": tuple(dict.fromkeys((*alone, *until))), "avoid_until": until}
