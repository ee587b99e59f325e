"""What is held against every decision about a case."""

import re
from collections.abc import Callable
from typing import Any

from stoker.domain.claims import Snapshot
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import place
from stoker.domain.placement.types import Placement, PlacementRequest, Suggestion, Tier, Unplaceable
from stoker.domain.units import GIB, parse_bytes
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState
from tests.stoker.domain.placement.audit import audit, rank
from tests.stoker.domain.placement.fleets import Case
from tests.stoker.domain.placement.reference import Best, best_place

MOST_BYTES = 200_000  # of an explanation: it is a workflow's payload


def judge(case: Case) -> Placement | Unplaceable:
    """The decision. Raises AssertionError where it is wrong."""
    snapshot, request = case.snapshot, case.request
    outcome = place(Fleet.of(snapshot), request)
    best = best_place(snapshot, request, case.costs)
    if isinstance(outcome, Placement):
        audit(snapshot, request, outcome)
        found = rank(outcome)
        assert comparable(found) == comparable(best), f"{found} is found, and {best} is there"
        for more in (1, 512 * GIB):
            larger = Snapshot(
                workers=tuple(with_more(worker, more) for worker in case.workers), claimed=snapshot.claimed
            )
            assert isinstance(place(Fleet.of(larger), request), Placement), "with more room it fits too"
    else:
        assert best is None, f"nothing is found, and {best} is there"
        judge_explanation(snapshot, request, outcome)
    backwards = Snapshot.of(reversed(case.workers), case.claims)
    again = place(Fleet.of(backwards), request)
    differing = [name for name in type(outcome).model_fields if getattr(again, name, None) != getattr(outcome, name)]
    assert not differing, f"the order of the workers matters to {differing}"
    return outcome


def comparable(best: Best | None) -> Best | None:
    """Where CPUs of several workers compute, how many layers the main server's has is no matter."""
    return best._replace(layers=0) if best is not None and best.tier is Tier.CPU_SEVERAL_WORKERS else best


def judge_explanation(snapshot: Snapshot, request: PlacementRequest, outcome: Unplaceable) -> None:
    """Why nothing fits is said, in few bytes, and what is suggested fits."""
    assert outcome.summary
    assert outcome.rejections or outcome.tiers
    assert len(outcome.model_dump_json()) < MOST_BYTES
    for suggestion in outcome.suggestions:
        changed = request.model_copy(update={"spec": with_changes(request.spec, suggestion)})
        fleet = Fleet.of(followed(snapshot, suggestion.text))
        assert isinstance(place(fleet, changed), Placement), f"it does not fit: {suggestion.text}"


_FREE: dict[str, dict[str, Any]] = {
    "any device": {"devices": []},
    "any worker": {"worker_selector": {}},
    "any compute capability": {"min_compute_capability": None},
}


def followed(snapshot: Snapshot, text: str) -> Snapshot:
    """The fleet after what the words of a suggestion say is to be done to it, where they do."""
    if more := re.fullmatch(r"one more device with ≥ (.+) in (\S+)", text):
        size, name = parse_bytes(more[1]), more[2]
        device = Device(id="more", kind=DeviceKind.CUDA, total=size, engine_name="GPU9", compute_capability="9.0")
        return _with_worker(snapshot, name, lambda worker: {"devices": (*worker.devices, device)})
    if uncordoned := re.match(r"uncordon (\S+): ", text):
        return _with_worker(snapshot, uncordoned[1], lambda _: {"state": WorkerState.READY})
    return snapshot


def _with_worker(snapshot: Snapshot, name: str, change: Callable[[Worker], dict[str, Any]]) -> Snapshot:
    workers = tuple(one.model_copy(update=change(one)) if one.name == name else one for one in snapshot.workers)
    assert workers != snapshot.workers
    return Snapshot(workers=workers, claimed=snapshot.claimed)


def with_changes(spec: DeploymentSpec, suggestion: Suggestion) -> DeploymentSpec:
    """`spec` as the suggestion would have it."""
    fields = spec.model_dump()
    for words, free in _FREE.items():
        if suggestion.text.startswith(f"allow {words}: "):
            fields |= free
    for name, value in suggestion.changes.items():
        at = fields
        *path, last = name.split(".")
        for part in path:
            at = at[part]
        assert last in at, name
        at[last] = value
    return DeploymentSpec.model_validate(fields)


def with_more(worker: Worker, more: int) -> Worker:
    """`worker` with so many bytes more on each of its devices."""
    devices = tuple(device.model_copy(update={"total": device.total + more}) for device in worker.devices)
    return worker.model_copy(update={"devices": devices})
