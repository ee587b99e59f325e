"""The fleet as its page draws it: pure functions of what the API reads."""

from collections.abc import Sequence
from typing import NamedTuple

from api.schemas.workers import DeviceRead, WorkerRead
from stoker.domain.units import format_bytes
from stoker.domain.workers import DeviceKind, WorkerState


class Meter(NamedTuple):
    """A device's memory as a bar: each part in percent of the whole, from the left. `measured` is a line below them."""

    claimed: float
    other: float  # in use by what claimed nothing
    free: float
    reserved: float
    measured: float
    text: str  # the same in words


class Totals(NamedTuple):
    """Devices of one sort over all workers that report, in bytes."""

    title: str
    devices: int
    total: int
    claimed: int
    other: int  # in use by what claimed nothing
    free: int
    reserved: int


def meter_of(device: DeviceRead) -> Meter:
    """The bar of one device. `free` is what can still be claimed: nothing is in two parts."""
    total = max(device.total_bytes, 1)
    reserved = min(device.reserve_bytes, total)
    free = min(max(device.allocatable_bytes, 0), total - reserved)
    claimed = min(device.claimed_bytes, total - reserved - free)
    other = total - reserved - free - claimed
    text = (
        f"{format_bytes(device.claimed_bytes)} claimed, {format_bytes(device.used_bytes)} measured in use, "
        f"{format_bytes(device.allocatable_bytes)} free and {format_bytes(device.reserve_bytes)} reserved "
        f"of {format_bytes(device.total_bytes)}"
    )
    measured = min(max(device.used_bytes, 0), total)
    return Meter(
        claimed=100 * claimed / total,
        other=100 * other / total,
        free=100 * free / total,
        reserved=100 * reserved / total,
        measured=100 * measured / total,
        text=text,
    )


def totals_of(workers: Sequence[WorkerRead]) -> list[Totals]:
    """What all GPUs have, and all CPUs. Of workers that do not report nothing is counted."""
    devices = [device for worker in workers if worker.state is not WorkerState.UNREACHABLE for device in worker.devices]
    found = []
    for title, is_cpu in (("GPU memory", False), ("RAM for models", True)):
        some = [device for device in devices if (device.kind is DeviceKind.CPU) is is_cpu]
        if some:
            found.append(_sum_of(title, some))
    return found


def _sum_of(title: str, devices: Sequence[DeviceRead]) -> Totals:
    total = sum(device.total_bytes for device in devices)
    claimed = sum(device.claimed_bytes for device in devices)
    free = sum(max(device.allocatable_bytes, 0) for device in devices)
    reserved = sum(min(device.reserve_bytes, device.total_bytes) for device in devices)
    other = max(0, total - claimed - free - reserved)
    return Totals(title, len(devices), total, claimed, other, free, reserved)


def device_name(device: DeviceRead) -> str:
    """What is built in, as far as it is known."""
    parts = [device.name]
    if device.compute_capability:
        parts.append(f"compute {device.compute_capability}")
    if device.unified:
        parts.append("shares the RAM")
    return ", ".join(part for part in parts if part)


def engine_name(worker: WorkerRead) -> str:
    """Its llama.cpp."""
    return f"{worker.engine.kind} {worker.engine.version}" if worker.engine is not None else "no engine"
