"""Changes of deployments, for people: what one would do, how one goes on, and those that were made."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.schemas.deployments import DeploymentRead
from api.schemas.rollouts import FieldChangeRead, RevisionRead, RolloutPlanRead
from entrypoints.cli.output import age, cell, fields, table
from entrypoints.cli.views.instances import placed_on
from stoker.domain.deployments import InstanceState
from stoker.domain.rollout_plan import RolloutAction
from stoker.domain.units import format_bytes

_STATE_STYLES = {"current": "green", "superseded": "dim", "rolled_back": "red"}


def plan_lines(plan: RolloutPlanRead) -> list[str]:
    """What a change is about to do, in a line or two; nothing where nothing changes."""
    if plan.action is not RolloutAction.CHANGE:
        return []
    lines = [f"{plan.name}: {_changes(plan.changes)}", f"{plan.name}: {_effect(plan)}"]
    if plan.pending is not None:
        lines.append(f"{plan.name}: the first new instance will wait: {plan.pending.summary}")
    return lines


def plan_description(plan: RolloutPlanRead) -> RenderableType:
    """`stoker deploy --dry-run`."""
    made = fields()
    made.add_row("Deployment", cell(plan.name))
    made.add_row("Would", cell(_effect(plan)))
    for number, change in enumerate(plan.changes):
        made.add_row("" if number else "Changes", cell(_change(change)))
    if plan.placement is not None:
        made.add_row("First new", cell(f"on {placed_on(plan.placement)}"))
        made.add_row("", cell(plan.placement.reason))
    if plan.makes_room:
        made.add_row("", cell(f"{plan.makes_room} stops first: there is no room beside it", "yellow"))
    if plan.pending is not None:
        made.add_row("First new", cell(f"would wait: {plan.pending.summary}", "yellow"))
        for suggestion in plan.pending.suggestions:
            made.add_row("", cell(suggestion.text))
    on_gpu, on_cpu = format_bytes(plan.on_gpu_bytes), format_bytes(plan.on_cpu_bytes)
    made.add_row("One takes", cell(f"{on_gpu} with all layers on a GPU, {on_cpu} on a CPU"))
    return Group(made, Text(), cell("Nothing was changed."))


def rollout_status(read: DeploymentRead) -> Text:
    """`stoker rollout status`: one line."""
    new = [one for one in read.instances if read.is_current(one.generation)]
    running = sum(one.state is InstanceState.RUNNING for one in new)
    left = len(read.instances) - len(new)
    if running >= read.wanted and not left:
        text = f"generation {read.generation} is rolled out: {running} of {read.wanted} running"
    else:
        old = f", {left} of another generation left" if left else ""
        text = f"generation {read.generation} rolls out: {running} of {read.wanted} new running{old}"
    return cell(f"{read.name}: {text}" + (f"; {read.message}" if read.message else ""))


def revisions_table(revisions: Sequence[RevisionRead]) -> Table:
    """`stoker rollout history`: the latest last, where the eye is."""
    made = table("GENERATION", "STATE", "RAN", "AGE", "BY", "CHANGES", "REASON")
    for column in made.columns[:-2]:
        column.no_wrap = True
    for read in reversed(revisions):
        made.add_row(
            cell(read.generation),
            cell(read.state.replace("_", " "), _STATE_STYLES[read.state]),
            cell("yes" if read.ran else "no"),
            cell(age(read.created_at)),
            cell(read.by or "-"),
            cell(_changes(read.changes) if read.changes else read.deployment.model),
            cell(read.reason),
        )
    return made


def _effect(plan: RolloutPlanRead) -> str:
    if plan.action is RolloutAction.NONE:
        return "change nothing: it is as asked for already"
    if plan.action is RolloutAction.CREATE:
        return f"be created, with {_instances(plan.started)}"
    parts = []
    if plan.replaces_instances:
        parts.append(f"replace {_instances(plan.replaced)}, one at a time" if plan.replaced else "replace no instance")
    if plan.started:
        parts.append(f"start {_instances(plan.started)}")
    if plan.stopped:
        parts.append(f"stop {_instances(plan.stopped)}")
    return ", ".join(parts) or "restart nothing"


def _instances(count: int) -> str:
    return f"{count} instance{'' if count == 1 else 's'}"


def _changes(changes: Sequence[FieldChangeRead]) -> str:
    return ", ".join(_change(change) for change in changes)


def _change(change: FieldChangeRead) -> str:
    return f"{change.field} {_value(change.before)} -> {_value(change.after)}"


def _value(value: Any) -> str:
    if value is None:
        return "(Stoker's choice)"
    if isinstance(value, dict):
        return ",".join(f"{name}={each}" for name, each in sorted(value.items())) or "(none)"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "(none)"
    return str(value).lower() if isinstance(value, bool) else str(value)
