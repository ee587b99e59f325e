"""What people read of an instance in the Temporal UI. Pure: from values to Markdown."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from stoker.domain.deployments import InstanceState
    from stoker.domain.placement.types import Placement, Unplaceable
    from stoker.domain.units import format_bytes
    from workflows.types import InstanceInput
    from workflows.visibility import INSTANCE_PHASES

_MOST_REJECTIONS = 20


def state_details(input: InstanceInput, state: InstanceState, message: str, placement: Placement | None) -> str:
    """Where the instance is in its life, and where it is placed."""
    lines = [
        f"**{INSTANCE_PHASES[state]}** - {message}",
        "",
        f"Model `{input.spec.model}`, incarnation {input.incarnation}",
    ]
    if placement is not None:
        lines += ["", f"Placed: {placement.reason or placement.tier}", ""]
        for worker in placement.workers:
            held = ", ".join(
                f"{share.device}: {format_bytes(share.claim)}{f', {share.layers} layers' * bool(share.layers)}"
                for share in placement.shares
                if placement.worker_of(share) == worker
            )
            lines.append(f"- `{worker}` ({held})")
        if placement.warning:
            lines += ["", f"**Warning:** {placement.warning}"]
    return "\n".join(lines)


def pending_details(why: Unplaceable) -> str:
    """Why nothing fits now: way by way, worker by worker, and what would help."""
    lines = [f"**Pending** - {why.summary}", ""]
    lines += [f"- {outcome.tier.replace('_', ' ')}: {outcome.message}" for outcome in why.tiers]
    if why.tiers:
        lines += ["", "The nearest misses:", ""]
    shown = why.rejections[:_MOST_REJECTIONS]
    lines += [f"- {r.worker}{'/' + r.device if r.device else ''}{': ' if r.worker else ''}{r.message}" for r in shown]
    left_out = len(why.rejections) - len(shown) + sum(why.more.values())
    if left_out:
        lines.append(f"- … and {left_out} more")
    if why.suggestions:
        lines += ["", "It would fit now with one of these:", ""]
        lines += [f"- {suggestion.text}" for suggestion in why.suggestions]
    if why.reserved:
        kept = ", ".join(f"{one.worker}/{one.device}" for one in why.reserved)
        lines += ["", f"It has waited long. Kept free of younger ones for it: {kept}."]
    return "\n".join(lines)
