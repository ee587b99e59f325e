"""Candidates: the ways in which a request could be placed now, each with its claims."""

from stoker.domain.base import Value
from stoker.domain.claims import Snapshot
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.types import DeviceShare, Rejection, Rule
from stoker.domain.units import format_bytes
from stoker.domain.workers import Device, DeviceKind, Worker


class Candidate(Value):
    """One way to place the request. `main` is the device that decides the score."""

    worker: Worker
    main: Device
    free_after: int  # bytes that stay allocatable on `main`
    shares: tuple[DeviceShare, ...]
    estimate: MemoryEstimate


def on_single_gpu(snapshot: Snapshot, worker: Worker, gpu: Device, estimate: MemoryEstimate) -> Candidate | Rejection:
    """The whole model on one GPU, with its host part on the worker's CPU device (where one is offered)."""
    free, needed = snapshot.allocatable(worker, gpu), estimate.devices[0]
    if free < needed.total:
        return _too_small(worker, gpu, needed.total, free, Rule.MEMORY)
    shares = [
        DeviceShare(device=gpu.id, kind=gpu.kind, engine_name=gpu.engine_name, layers=needed.layers, claim=needed.total)
    ]
    host = next((device for device in worker.devices if device.kind is DeviceKind.CPU), None)
    if host is not None:
        host_free = snapshot.allocatable(worker, host)
        if host_free < estimate.host.total:
            return _too_small(worker, host, estimate.host.total, host_free, Rule.HOST_MEMORY)
        shares.append(DeviceShare(device=host.id, kind=host.kind, layers=0, claim=estimate.host.total))
    return Candidate(worker=worker, main=gpu, free_after=free - needed.total, shares=tuple(shares), estimate=estimate)


def on_cpu(snapshot: Snapshot, worker: Worker, cpu: Device, estimate: MemoryEstimate) -> Candidate | Rejection:
    """The whole model on the worker's CPU, in the RAM that it offers."""
    free = snapshot.allocatable(worker, cpu)
    if free < estimate.host.total:
        return _too_small(worker, cpu, estimate.host.total, free, Rule.MEMORY)
    share = DeviceShare(device=cpu.id, kind=cpu.kind, layers=0, claim=estimate.host.total)
    return Candidate(worker=worker, main=cpu, free_after=free - estimate.host.total, shares=(share,), estimate=estimate)


def _too_small(worker: Worker, device: Device, needed: int, available: int, rule: Rule) -> Rejection:
    place = "RAM" if device.kind is DeviceKind.CPU else device.name or device.id
    return Rejection(
        rule=rule,
        worker=worker.name,
        device=device.id,
        needed=needed,
        available=available,
        message=f"{place}: {format_bytes(needed)} needed, {format_bytes(available)} of "
        f"{format_bytes(device.total)} allocatable, {format_bytes(needed - available)} short",
    )
