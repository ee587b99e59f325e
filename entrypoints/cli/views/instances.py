"""Instances, and why they are where they are, for people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.schemas.instances import InstanceRead, LinkRead
from api.schemas.memory import EstimateRead, MemoryComparisonRead, MemoryPartsRead
from api.schemas.reasons import PlacementRead, ShareRead
from entrypoints.cli.output import age, cell, fields, table
from entrypoints.cli.progress import amount, file_amounts
from stoker.domain.deployments import InstanceState
from stoker.domain.measured_memory import TOLERATED_ERROR
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


def instance_description(instance: InstanceRead) -> RenderableType:
    """All that is known of one instance."""
    parts: list[RenderableType] = [_fields(instance)]
    if instance.memory:
        parts += [Text(), memory_table(instance.memory)]
    if any(one.error_ratio is not None and one.error_ratio > TOLERATED_ERROR for one in instance.memory):
        asked = f"please report it with this description and the beginning of `stoker logs {instance.id}`"
        parts.append(cell(f"The engine took more than was estimated: {asked}.", "yellow"))
    return Group(*parts)


def memory_table(memory: Sequence[MemoryComparisonRead]) -> Table:
    """Estimate above measurement, for each device and the host. How far it is off leaves out the overhead."""
    made = table("DEVICE", "MEMORY", "WEIGHTS", "KV CACHE", "COMPUTE", "OUTPUT", "OVERHEAD", "OFF BY")
    for one in memory:
        made.add_row(cell(one.device), cell("estimated"), *_sizes(one.estimated), cell(""))
        if one.measured is not None:
            off = f"{one.error_ratio:+.2%}" if one.error_ratio is not None else ""
            made.add_row(cell(""), cell("measured"), *_sizes(one.measured), cell(off))
    return made


def _sizes(parts: MemoryPartsRead) -> list[Text]:
    sizes = (parts.weights_bytes, parts.cache_bytes, parts.compute_bytes, parts.output_bytes, parts.overhead_bytes)
    return [cell("-" if size is None else format_bytes(size)) for size in sizes]


def _fields(instance: InstanceRead) -> Table:
    made = fields()
    made.add_row("State", state_of(instance))
    if done := amount(instance):
        made.add_row("Progress", cell(done))
    if files := file_amounts(instance):
        made.add_row("Files", cell("\n".join(files)))
    if instance.placement is not None:
        made.add_row("Placed on", cell("\n".join(_by_worker(instance.placement))))
        made.add_row("Why there", cell(instance.placement.reason))
        made.add_row("Estimate", cell(estimate_line(instance.placement.estimate)))
        for link in instance.links:
            made.add_row("Link", cell(_link(link), "yellow" if link.problem else ""))
        if instance.placement.estimate.caution:
            made.add_row("Caution", cell(instance.placement.estimate.caution))
        if instance.placement.warning:
            made.add_row("Warning", cell(instance.placement.warning, "yellow"))
    if instance.avoids:
        made.add_row("Avoids", cell(avoided(instance), "yellow"))
    if instance.pending is not None:
        changes = "; ".join(suggestion.text for suggestion in instance.pending.suggestions)
        made.add_row("Would help", cell(changes or f"see `stoker why {instance.deployment}`"))
    made.add_row("Generation", cell(f"{instance.generation}, incarnation {instance.incarnation}"))
    if instance.pid is not None:
        made.add_row("Process", cell(f"pid {instance.pid}{_held(instance.memory)}"))
    made.add_row("Workflow", cell(instance.workflow_id))
    return made


def _link(link: LinkRead) -> str:
    """`box-1 to box-2: 0.4 ms there and back, 112 MiB/s`."""
    found = (
        f"{link.round_trip_seconds * 1000:.2g} ms there and back, {format_bytes(link.bytes_per_second)}/s"
        if not link.problem
        else link.problem
    )
    return f"{link.worker} to {link.peer}: {found}, {age(link.checked_at)} ago"


def avoided(instance: InstanceRead) -> str:
    """Which workers failed it, and whether it could do without them."""
    used = instance.placement.workers if instance.placement is not None else []
    again = [name for name in instance.avoids if name in used]
    return f"{', '.join(instance.avoids)}, which failed it of late" + (
        f"; nothing else fits, so it is on {', '.join(again)} again" if again else ""
    )


def _held(memory: Sequence[MemoryComparisonRead]) -> str:
    """What the process held of the host's RAM, which comes last."""
    held = memory[-1].measured.total_bytes if memory and memory[-1].measured is not None else None
    return f", held {format_bytes(held)} of RAM when it began to answer" if held else ""


def state_of(instance: InstanceRead) -> Text:
    """The state with its message, and for how long."""
    return Text.assemble(
        cell(instance.state.value, STATE_STYLES.get(instance.state, "")),
        cell(f" for {age(instance.state_since)}"),
        cell(f": {instance.message}" if instance.message else ""),
    )


def placed_on(placement: PlacementRead) -> str:
    """`box-1: gpu0 (33 layers, 6.1 GiB)`; of several workers, the main server's first."""
    return "; ".join(_by_worker(placement))


def _by_worker(placement: PlacementRead) -> list[str]:
    kept = placement.estimate.host.layers  # on the main server's own CPU, which is no device to the engine

    def held_by(share: ShareRead) -> str:
        return _held_by(share, share.layers or (kept if share.worker == placement.worker else 0))

    return [
        f"{worker}: {' + '.join(held_by(share) for share in placement.shares if share.worker == worker)}"
        for worker in placement.workers
    ]


def _held_by(share: ShareRead, held: int) -> str:
    layers = f"{held} layers, " if held else ""
    return f"{share.device} ({layers}{format_bytes(share.claimed_bytes)})"


def estimate_line(estimate: EstimateRead) -> str:
    """The parts of the claim."""
    parts = {
        "weights": estimate.weights_bytes,
        "KV cache": estimate.cache_bytes,
        "compute": estimate.compute_bytes,
        "output": estimate.output_bytes,
        "overhead": estimate.overhead_bytes,
    }
    sums = " + ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
    return f"{sums}, for {estimate.slots} x {estimate.context_length} tokens"
