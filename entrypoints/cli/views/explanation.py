"""`stoker why`: the reasons behind a deployment's state, in numbers."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.schemas.deployments import DeploymentRead
from api.schemas.instances import InstanceRead
from api.schemas.reasons import TIER_NAMES, PendingRead, PlacementRead, RejectionRead, TierRead
from entrypoints.cli.output import cell, table
from entrypoints.cli.views.deployments import STATE_STYLES
from entrypoints.cli.views.instances import avoided, estimate_line, state_of
from stoker.domain.deployments import InstanceState
from stoker.domain.units import format_bytes

NEAREST = 5
"""So many refusals are shown; `-o json` has more."""


def explanation(read: DeploymentRead) -> RenderableType:
    """Why each instance is where it is, waits or failed."""
    headline = Text.assemble(
        cell(read.name, "bold"),
        " is ",
        cell(read.state, STATE_STYLES.get(read.state, "")),
        cell(f": {read.running} of {read.wanted} running"),
    )
    parts: list[RenderableType] = [headline]
    if not read.instances:
        parts.append(cell(read.message))
    for instance in read.instances:
        parts += [Text(), Text.assemble(cell(instance.id, "bold"), " ", state_of(instance))]
        parts += [Padding(reason, (0, 0, 0, 2)) for reason in _reasons(instance)]
    return Group(*parts)


def placement_reasons(placement: PlacementRead) -> list[RenderableType]:
    """Why there, what each device holds, and what may go wrong."""
    reasons: list[RenderableType] = [cell(f"why there: {placement.reason}"), shares_table(placement)]
    reasons.append(cell(f"claimed: {estimate_line(placement.estimate)}"))
    if placement.warning:
        reasons.append(cell(f"warning: {placement.warning}", "yellow"))
    return reasons


def shares_table(placement: PlacementRead) -> Table:
    """A line a device, in the engine's order."""
    made = table("DEVICE", "LAYERS", "CLAIMED")
    for share in placement.shares:
        made.add_row(
            cell(f"{share.worker}/{share.device}"), cell(share.layers or "-"), cell(format_bytes(share.claimed_bytes))
        )
    return made


def pending_reasons(pending: PendingRead) -> list[RenderableType]:
    """A line for each way of placing it, the nearest refusals, what would help, and what is kept free for it."""
    reasons: list[RenderableType] = []
    if pending.tiers:
        reasons.append(_tiers(pending.tiers))
    if pending.rejections:
        reasons.append(_rejections(pending.rejections[:NEAREST]))
    if others := _others(pending):
        reasons.append(cell(others))
    if pending.suggestions:
        reasons.append(cell("what would help:"))
        reasons += [cell(f"  {suggestion.text}") for suggestion in pending.suggestions]
    if pending.reserved:
        reasons.append(cell(f"kept free for it, which has waited long: {', '.join(pending.reserved)}"))
    return reasons


def _reasons(instance: InstanceRead) -> list[RenderableType]:
    reasons: list[RenderableType] = []
    if instance.pending is not None and instance.state is InstanceState.PENDING:
        reasons += pending_reasons(instance.pending)
        reasons.append(cell("it starts by itself as soon as there is room"))
    if instance.placement is not None:
        reasons += placement_reasons(instance.placement)
    if instance.avoids:
        reasons.append(cell(f"avoids: {avoided(instance)}", "yellow"))
    if instance.state in (InstanceState.FAILED, InstanceState.BACKOFF):
        reasons.append(cell(f"what it wrote: stoker logs {instance.id}"))
    return reasons


def _tiers(tiers: Sequence[TierRead]) -> Table:
    made = table("PLACED ON", "LAYERS", "SHORT", "WHY NOT")
    for tier in tiers:
        made.add_row(
            cell(TIER_NAMES[tier.tier]),
            cell(f"{tier.layers} of {tier.of_layers}" if tier.of_layers else ""),
            cell(format_bytes(tier.short_bytes) if tier.short_bytes else ""),
            cell(tier.message),
        )
    return made


def _rejections(rejections: Sequence[RejectionRead]) -> Table:
    made = table("WHERE", "SHORT", "WHY NOT")
    for rejection in rejections:
        where = "/".join(part for part in (rejection.worker, rejection.device) if part) or "the cluster"
        short = format_bytes(rejection.short_bytes) if rejection.short_bytes else ""
        made.add_row(cell(where), cell(short), cell(rejection.message))
    return made


def _others(pending: PendingRead) -> str:
    """How many refusals are not shown, by what they are about; empty: none."""
    counted = Counter(rejection.rule for rejection in pending.rejections[NEAREST:])
    counted.update(pending.more)
    if not counted:
        return ""
    rules = ", ".join(f"{count} {rule.replace('_', ' ')}" for rule, count in counted.most_common())
    return f"and {counted.total()} more: {rules}"
