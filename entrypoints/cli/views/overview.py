"""`stoker top`: the cluster on one screen."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.schemas.deployments import DeploymentRead
from api.schemas.instances import InstanceRead
from api.schemas.workers import DeviceRead, WorkerRead
from entrypoints.cli.output import age, cell, table
from entrypoints.cli.rates import Rate
from entrypoints.cli.views.deployments import STATE_STYLES
from entrypoints.cli.views.instances import STATE_STYLES as INSTANCE_STYLES
from entrypoints.cli.views.instances import placed_on
from entrypoints.cli.views.workers import WORKER_STYLES
from stoker.domain.units import format_bytes

BAR_CELLS = 24

_CLAIMED, _OTHERS, _RESERVED, _FREE = "█", "▓", "▒", "░"
_LEGEND = f"{_CLAIMED} claimed  {_OTHERS} in use beyond claims  {_RESERVED} reserved  {_FREE} free"


def overview(
    workers: Sequence[WorkerRead], deployments: Sequence[DeploymentRead], rates: Mapping[str, Rate]
) -> RenderableType:
    """Sums, then devices, deployments and instances."""
    instances = [instance for each in deployments for instance in each.instances]
    parts: list[RenderableType] = [_sums(workers, deployments, rates), Text(), _devices(workers), cell(_LEGEND, "dim")]
    if deployments:
        parts += [Text(), _deployments(deployments, rates)]
    if instances:
        parts += [Text(), _instances(instances)]
    return Group(*parts)


def memory_bar(device: DeviceRead, cells: int = BAR_CELLS) -> str:
    """A device's memory in `cells` characters: claimed, in use by others, reserved, free. What is not 0 has one."""
    others = max(0, device.used_bytes - device.claimed_bytes)
    parts = [(device.claimed_bytes, _CLAIMED), (others, _OTHERS), (device.reserve_bytes, _RESERVED)]
    bar = ""
    for size, character in parts:
        wanted = max(1, round(size / max(1, device.total_bytes) * cells)) if size else 0
        bar += character * min(wanted, cells - len(bar))
    return bar + _FREE * (cells - len(bar))


def _sums(workers: Sequence[WorkerRead], deployments: Sequence[DeploymentRead], rates: Mapping[str, Rate]) -> Text:
    ready = sum(worker.state == "ready" for worker in workers)
    running = sum(deployment.state == "running" for deployment in deployments)
    told = [
        f"{ready} of {len(workers)} workers ready",
        f"{running} of {len(deployments)} deployments running",
        f"{sum(rate.requests for rate in rates.values()):.1f} requests/s",
        f"{sum(rate.tokens_out for rate in rates.values()):.0f} tokens/s out",
        f"{sum(rate.running for rate in rates.values())} requests under way",
        f"{sum(rate.queued for rate in rates.values())} queued",
    ]
    return cell("   ".join(told), "bold")


def _devices(workers: Sequence[WorkerRead]) -> Table:
    made = table("WORKER", "STATE", "DEVICE", "MEMORY", "CLAIMED", "IN USE", "FREE", "TOTAL")
    for column in made.columns:
        column.no_wrap = True
    for worker in workers:
        name, state = cell(worker.name), cell(worker.state, WORKER_STYLES[worker.state])
        for device in worker.devices:
            sizes = (device.claimed_bytes, device.used_bytes, device.allocatable_bytes, device.total_bytes)
            made.add_row(
                name, state, cell(device.id), cell(memory_bar(device)), *(cell(format_bytes(s)) for s in sizes)
            )
            name = state = cell("")
    return made


def _deployments(deployments: Sequence[DeploymentRead], rates: Mapping[str, Rate]) -> Table:
    made = table("DEPLOYMENT", "STATE", "READY", "REQ/S", "TOK/S IN", "TOK/S OUT", "UNDER WAY", "QUEUED")
    for read in deployments:
        rate = rates.get(read.name, Rate(0.0, 0.0, 0.0, 0, 0))
        made.add_row(
            cell(read.name),
            cell(read.state, STATE_STYLES.get(read.state, "")),
            cell(f"{read.running}/{read.replicas}"),
            cell(f"{rate.requests:.1f}"),
            cell(f"{rate.tokens_in:.0f}"),
            cell(f"{rate.tokens_out:.0f}"),
            cell(rate.running),
            cell(rate.queued),
        )
    return made


def _instances(instances: Sequence[InstanceRead]) -> Table:
    made = table("INSTANCE", "STATE", "SINCE", "WHERE")
    for instance in instances:
        where = placed_on(instance.placement) if instance.placement is not None else instance.message
        state = cell(instance.state, INSTANCE_STYLES.get(instance.state, ""))
        made.add_row(cell(instance.id), state, cell(age(instance.state_since)), cell(where))
    return made
