"""`stoker why`: the reasons behind a deployment's state, in numbers."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.schemas.deployments import DeploymentRead
from api.schemas.instances import InstanceRead, PendingRead, PlacementRead
from entrypoints.cli.output import cell, table
from entrypoints.cli.views.deployments import STATE_STYLES
from entrypoints.cli.views.instances import estimate_line, state_of
from stoker.domain.deployments import InstanceState
from stoker.domain.units import format_bytes


def explanation(read: DeploymentRead) -> RenderableType:
    """Why each instance is where it is, waits or failed."""
    headline = Text.assemble(
        cell(read.name, "bold"),
        " is ",
        cell(read.state, STATE_STYLES.get(read.state, "")),
        cell(f": {read.running} of {read.replicas} running"),
    )
    parts: list[RenderableType] = [headline]
    if not read.instances:
        parts.append(cell(read.message))
    for instance in read.instances:
        parts += [Text(), Text.assemble(cell(instance.id, "bold"), " ", state_of(instance))]
        parts += [Padding(reason, (0, 0, 0, 2)) for reason in _reasons(instance)]
    return Group(*parts)


def _reasons(instance: InstanceRead) -> list[RenderableType]:
    reasons: list[RenderableType] = []
    if instance.pending is not None and instance.state is InstanceState.PENDING:
        reasons += _pending(instance.pending)
    if instance.placement is not None:
        reasons += _placement(instance.placement)
    if instance.state in (InstanceState.FAILED, InstanceState.BACKOFF):
        reasons.append(cell(f"what it wrote: stoker logs {instance.id}"))
    return reasons


def _placement(placement: PlacementRead) -> list[RenderableType]:
    shares = table("DEVICE", "LAYERS", "CLAIMED")
    for share in placement.shares:
        shares.add_row(
            cell(f"{placement.worker}/{share.device}"),
            cell(share.layers or "-"),
            cell(format_bytes(share.claimed_bytes)),
        )
    return [cell(f"why there: {placement.reason}"), shares, cell(f"claimed: {estimate_line(placement.estimate)}")]


def _pending(pending: PendingRead) -> list[RenderableType]:
    reasons: list[RenderableType] = []
    if pending.rejections:
        reasons.append(_rejections(pending))
    if pending.suggestions:
        reasons.append(cell("it would fit:"))
        reasons += [cell(f"  {suggestion}") for suggestion in pending.suggestions]
    reasons.append(cell("it starts by itself as soon as there is room"))
    return reasons


def _rejections(pending: PendingRead) -> Table:
    made = table("WHERE", "NEEDS", "HAS FREE", "SHORT", "WHY NOT")
    for rejection in pending.rejections:
        sizes = ("", "", "")
        if rejection.needed_bytes:
            sizes = (
                format_bytes(rejection.needed_bytes),
                format_bytes(rejection.available_bytes),
                format_bytes(rejection.short_bytes),
            )
        where = "/".join(part for part in (rejection.worker, rejection.device) if part) or "the cluster"
        made.add_row(cell(where), *(cell(size) for size in sizes), cell(rejection.message))
    return made
