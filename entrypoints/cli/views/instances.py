"""Instances, and why they are where they are, for people."""

from rich.table import Table
from rich.text import Text

from api.schemas.instances import EstimateRead, InstanceRead, PlacementRead
from entrypoints.cli.output import age, cell, fields
from entrypoints.cli.progress import amount
from stoker.domain.deployments import InstanceState
from stoker.domain.units import format_bytes

STATE_STYLES = {
    InstanceState.RUNNING: "green",
    InstanceState.DOWNLOADING: "cyan",
    InstanceState.STARTING: "cyan",
    InstanceState.PLACING: "cyan",
    InstanceState.PENDING: "yellow",
    InstanceState.BACKOFF: "yellow",
    InstanceState.FAILED: "red",
}


def instance_fields(instance: InstanceRead) -> Table:
    """All that is known of one instance."""
    made = fields()
    made.add_row("State", state_of(instance))
    if done := amount(instance):
        made.add_row("Progress", cell(done))
    if instance.placement is not None:
        made.add_row("Placed on", cell(placed_on(instance.placement)))
        made.add_row("Why there", cell(instance.placement.reason))
        made.add_row("Estimate", cell(estimate_line(instance.placement.estimate)))
    if instance.pending is not None:
        made.add_row(
            "Would fit", cell("; ".join(instance.pending.suggestions) or f"see `stoker why {instance.deployment}`")
        )
    made.add_row("Generation", cell(f"{instance.generation}, incarnation {instance.incarnation}"))
    if instance.pid is not None:
        made.add_row("Process", cell(f"pid {instance.pid}"))
    made.add_row("Workflow", cell(instance.workflow_id))
    return made


def state_of(instance: InstanceRead) -> Text:
    """The state with its message, and for how long."""
    return Text.assemble(
        cell(instance.state.value, STATE_STYLES.get(instance.state, "")),
        cell(f" for {age(instance.state_since)}"),
        cell(f": {instance.message}" if instance.message else ""),
    )


def placed_on(placement: PlacementRead) -> str:
    """`box-1: gpu0 (33 layers, 6.1 GiB)`."""
    shares = [
        f"{share.device} ({f'{share.layers} layers, ' if share.layers else ''}{format_bytes(share.claimed_bytes)})"
        for share in placement.shares
    ]
    return f"{placement.worker}: {' + '.join(shares)}"


def estimate_line(estimate: EstimateRead) -> str:
    """The parts of the claim."""
    parts = {
        "weights": estimate.weights_bytes,
        "KV cache": estimate.cache_bytes,
        "compute": estimate.compute_bytes,
        "overhead": estimate.overhead_bytes,
    }
    sums = " + ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())
    return f"{sums}, for {estimate.slots} x {estimate.context_length} tokens"
