"""Workers, for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.schemas.instances import InstanceRead
from api.schemas.workers import DeviceRead, EngineRead, WorkerRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, fields, table
from entrypoints.cli.views.instances import state_of
from stoker.domain.units import format_bytes
from stoker.domain.workers import WorkerState

WORKER_STYLES = {
    WorkerState.READY: "green",
    WorkerState.CORDONED: "yellow",
    WorkerState.DRAINING: "yellow",
    WorkerState.UNREACHABLE: "red",
}


def workers_table(items: Sequence[Any]) -> Table:
    """`stoker workers`: a line a worker, with what is still free on each of its devices."""
    made = table("NAME", "STATE", "SEEN", "ENGINE", "DEVICES (FREE / TOTAL)")
    for column in made.columns[:3]:
        column.no_wrap = True
    for item in items:
        read = read_as(WorkerRead, item)
        made.add_row(
            cell(read.name),
            cell(read.state.value, WORKER_STYLES[read.state]),
            cell(age(read.seen_at)),
            cell(_engine(read.engine)),
            cell("\n".join(_free(device) for device in read.devices)),
        )
    return made


def worker_description(read: WorkerRead, instances: Sequence[InstanceRead]) -> RenderableType:
    """`stoker workers describe`."""
    made = fields()
    made.add_row("Worker", cell(read.name))
    made.add_row("State", cell(read.state.value, WORKER_STYLES[read.state]))
    made.add_row("Address", cell(read.address))
    made.add_row("Labels", cell(", ".join(f"{key}={value}" for key, value in sorted(read.labels.items())) or "none"))
    made.add_row("Engine", cell(_engine(read.engine)))
    made.add_row("RPC", cell("lends its devices to other workers" if read.serves_rpc else "lends no devices"))
    if read.holds:
        made.add_row("Holds", cell("\n".join(read.holds)))
    made.add_row("System", cell(read.os))
    made.add_row("Agent", cell(read.agent_version))
    made.add_row("Joined", cell(f"{age(read.joined_at)} ago"))
    made.add_row("Seen", cell(f"{age(read.seen_at)} ago"))
    parts: list[RenderableType] = [made, Text(), _devices(read.devices)]
    if instances:
        placed = table("INSTANCE", "CLAIMED", "STATE")
        for instance in instances:
            shares = instance.placement.shares if instance.placement is not None else []
            claimed = sum(share.claimed_bytes for share in shares if share.worker == read.name)
            placed.add_row(cell(instance.id), cell(format_bytes(claimed)), state_of(instance))
        parts += [Text(), placed]
    return Group(*parts)


def _devices(devices: Sequence[DeviceRead]) -> Table:
    made = table("DEVICE", "KIND", "TOTAL", "RESERVED", "CLAIMED", "IN USE", "FREE", "NAME")
    for device in devices:
        sizes = (
            device.total_bytes,
            device.reserve_bytes,
            device.claimed_bytes,
            device.used_bytes,
            device.allocatable_bytes,
        )
        made.add_row(
            cell(device.id), cell(device.kind.value), *(cell(format_bytes(size)) for size in sizes), cell(_name(device))
        )
    for column in made.columns[:-1]:
        column.no_wrap = True
    return made


def _name(device: DeviceRead) -> str:
    parts = [device.name]
    if device.compute_capability:
        parts.append(f"compute {device.compute_capability}")
    if device.unified:
        parts.append("shares the RAM")
    return ", ".join(part for part in parts if part)


def _free(device: DeviceRead) -> str:
    return f"{device.id} {format_bytes(device.allocatable_bytes)} / {format_bytes(device.total_bytes)}"


def _engine(engine: EngineRead | None) -> str:
    return f"{engine.kind} {engine.version}" if engine is not None else "none"
