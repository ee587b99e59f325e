"""The checks that can refuse a worker or a device before memory is looked at. One check, one function, one rule."""

from collections.abc import Callable, Iterable

from stoker.domain.models import SourceKind
from stoker.domain.placement.types import PlacementRequest, Rejection, Rule
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState

WorkerCheck = Callable[[PlacementRequest, Worker], Rejection | None]


def _reachable(_: PlacementRequest, worker: Worker) -> Rejection | None:
    if worker.state is not WorkerState.UNREACHABLE:
        return None
    return Rejection(rule=Rule.UNREACHABLE, worker=worker.name, message="its agent has not reported for a while")


def _not_cordoned(_: PlacementRequest, worker: Worker) -> Rejection | None:
    if worker.state is not WorkerState.CORDONED:
        return None
    return Rejection(rule=Rule.CORDONED, worker=worker.name, message="it is cordoned and takes nothing new")


def _has_engine(_: PlacementRequest, worker: Worker) -> Rejection | None:
    if worker.engine is not None:
        return None
    return Rejection(rule=Rule.NO_ENGINE, worker=worker.name, message="it reports no llama.cpp engine")


def _has_devices(_: PlacementRequest, worker: Worker) -> Rejection | None:
    if worker.devices:
        return None
    return Rejection(rule=Rule.NO_DEVICES, worker=worker.name, message="it reports no devices")


def _selected(request: PlacementRequest, worker: Worker) -> Rejection | None:
    missing = {k: v for k, v in request.spec.worker_selector.items() if worker.labels.get(k) != v}
    if not missing:
        return None
    asked = ", ".join(f"{key}={value}" for key, value in sorted(missing.items()))
    return Rejection(rule=Rule.SELECTOR, worker=worker.name, message=f"it lacks the label {asked}")


def _holds_file(request: PlacementRequest, worker: Worker) -> Rejection | None:
    files = request.files
    if files.source.kind is not SourceKind.FILE or worker.name in files.found_on:
        return None
    return Rejection(
        rule=Rule.FILE_MISSING,
        worker=worker.name,
        message=f"{files.source.path} was not found on it when the model was read",
    )


WORKER_CHECKS: tuple[WorkerCheck, ...] = (_reachable, _not_cordoned, _has_engine, _has_devices, _selected, _holds_file)


def refuse_worker(request: PlacementRequest, worker: Worker) -> Rejection | None:
    """The first rule that refuses `worker`, or None when its devices may be looked at."""
    for check in WORKER_CHECKS:
        if (rejection := check(request, worker)) is not None:
            return rejection
    return None


def refuse_device(request: PlacementRequest, worker: Worker, device: Device) -> Rejection | None:
    """The rule other than memory that refuses `device` of `worker`, or None."""
    if request.spec.devices and (worker.name, device.id) not in request.spec.devices:
        return Rejection(
            rule=Rule.DEVICE_NOT_CHOSEN,
            worker=worker.name,
            device=device.id,
            message="the deployment names other devices",
        )
    if device.kind is DeviceKind.CPU and not request.spec.cpu_offload and _has_gpu(worker) and not request.spec.devices:
        return Rejection(
            rule=Rule.CPU_NOT_ALLOWED,
            worker=worker.name,
            device=device.id,
            message="this host has GPUs, and its CPU is used only with cpu_offload",
        )
    return None


def unknown_devices(request: PlacementRequest, workers: Iterable[Worker]) -> list[Rejection]:
    """The devices that the deployment names and that no worker has."""
    there = {(worker.name, device.id) for worker in workers for device in worker.devices}
    return [
        Rejection(rule=Rule.NO_SUCH_DEVICE, worker=name, device=device, message="there is no such device")
        for name, device in request.spec.devices
        if (name, device) not in there
    ]


def _has_gpu(worker: Worker) -> bool:
    return any(device.kind is not DeviceKind.CPU for device in worker.devices)
