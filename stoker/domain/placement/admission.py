"""Who may take part at all, before memory is looked at."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from stoker.domain.base import DeviceId, WorkerName
from stoker.domain.models import SourceKind
from stoker.domain.placement.fleet import Fleet, Host, capability, is_supported
from stoker.domain.placement.types import PlacementRequest, Rejection, Rule
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState


class Held(NamedTuple):
    """What is kept of one worker for instances that have waited too long."""

    devices: frozenset[DeviceId] = frozenset()
    ram: int = 0  # bytes beside those devices


Reserved = Mapping[WorkerName, Held]


class Admission(NamedTuple):
    """The hosts that a request may use, without the devices that it may not."""

    hosts: tuple[Host, ...]  # may lend devices
    holders: frozenset[WorkerName] | None  # those that have the model's file; None: any may fetch it
    computing: frozenset[WorkerName] | None  # those whose CPU may compute layers; None: all of them

    @property
    def mains(self) -> tuple[Host, ...]:
        """Those that may run the main server, which reads the file."""
        return self.mains_of(self.hosts)

    def mains_of(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        """Those of `hosts` that may."""
        holders = self.holders
        return tuple(hosts) if holders is None else tuple(host for host in hosts if host.name in holders)

    def computes(self, host: Host) -> bool:
        """Whether its CPU may hold layers."""
        return self.computing is None or host.name in self.computing


def admit(fleet: Fleet, request: PlacementRequest, reserved: Reserved) -> Admission:
    """Those of the fleet that the request's rules admit."""
    spec, files = request.spec, request.files
    hosts = fleet.ready
    if spec.worker_selector:
        hosts = tuple(host for host in hosts if host.worker.matches(spec.worker_selector))
    if spec.devices:
        hosts = _with_chosen(hosts, spec.devices)
    if spec.min_compute_capability is not None:
        least = capability(spec.min_compute_capability)
        hosts = tuple(host.without(_below(host.worker, least)) for host in hosts)
    if reserved:
        hosts = tuple(_without_held(host, reserved.get(host.name)) for host in hosts)
    holders = frozenset(files.found_on) if files.source.kind is SourceKind.FILE else None
    return Admission(hosts, holders, _computing(fleet, request))


def _with_chosen(hosts: tuple[Host, ...], devices: tuple[tuple[WorkerName, DeviceId], ...]) -> tuple[Host, ...]:
    chosen: dict[str, set[str]] = {}
    for worker, device in devices:
        chosen.setdefault(worker, set()).add(device)
    # RAM is booked whether the CPU is named or not: it is no choice of the administrator's where a process runs.
    return tuple(
        host.without(d.id for d in host.worker.devices if d.id not in chosen[host.name] and not _is_cpu(d))
        for host in hosts
        if host.name in chosen
    )


def _without_held(host: Host, held: Held | None) -> Host:
    return host if held is None else host.without(held.devices, ram=held.ram)


def _below(worker: Worker, least: tuple[int, int]) -> list[DeviceId]:
    """The NVIDIA devices whose compute capability is lower, or not known."""
    return [
        device.id
        for device in worker.devices
        if device.kind is DeviceKind.CUDA
        and (not device.compute_capability or capability(device.compute_capability) < least)
    ]


def _computing(fleet: Fleet, request: PlacementRequest) -> frozenset[WorkerName] | None:
    """A CPU computes where the administrator accepts it, or where no GPU could be asked instead."""
    spec = request.spec
    if spec.cpu_offload or (spec.gpu_layers is not None and spec.gpu_layers <= request.profile.block_count):
        return None
    if spec.devices:
        return frozenset(worker for worker, device in spec.devices if _names_cpu(fleet, worker, device))
    return frozenset() if _has_gpus(fleet, request) else None


def _names_cpu(fleet: Fleet, worker: WorkerName, device: DeviceId) -> bool:
    host = fleet.hosts.get(worker)
    found = host.worker.device(device) if host is not None else None
    return found is not None and _is_cpu(found)


def _has_gpus(fleet: Fleet, request: PlacementRequest) -> bool:
    """Whether any worker that the selector admits has a GPU, be it there now or not."""
    selector = request.spec.worker_selector
    if not selector:
        return fleet.has_gpus
    return any(host.has_gpus and host.worker.matches(selector) for host in fleet.hosts.values())


def _is_cpu(device: Device) -> bool:
    return device.kind is DeviceKind.CPU


# --- why not ---------------------------------------------------------------------------------------------------------

_STATES = {
    WorkerState.UNREACHABLE: (Rule.UNREACHABLE, "its agent has not reported for a while"),
    WorkerState.CORDONED: (Rule.CORDONED, "it is cordoned and takes nothing new"),
    WorkerState.DRAINING: (Rule.DRAINING, "it is being drained and takes nothing new"),
}


def refusals(fleet: Fleet, request: PlacementRequest, reserved: Reserved) -> Iterator[Rejection]:
    """Each worker and device that `admit` leaves out, with the first rule that refuses it."""
    spec = request.spec
    chosen = frozenset(spec.devices)
    for worker, named in spec.devices:
        if worker not in fleet.hosts or fleet.hosts[worker].worker.device(named) is None:
            message = "there is no such device"
            yield Rejection(rule=Rule.NO_SUCH_DEVICE, worker=worker, device=named, message=message)
    narrowed = bool(chosen) or spec.min_compute_capability is not None
    for host in fleet.hosts.values():
        if (refused := _refused_worker(host.worker, request)) is not None:
            rule, message = refused
            yield Rejection(rule=rule, worker=host.name, message=message)
        elif narrowed or host.name in reserved or not host.is_all_supported:
            held = reserved.get(host.name, Held())
            for device in host.worker.devices:
                if (refused := _refused_device(device, request, chosen, host.name, held)) is not None:
                    rule, message = refused
                    yield Rejection(rule=rule, worker=host.name, device=device.id, message=message)


def _refused_worker(worker: Worker, request: PlacementRequest) -> tuple[Rule, str] | None:
    if worker.state in _STATES:
        return _STATES[worker.state]
    if worker.engine is None:
        return Rule.NO_ENGINE, "it reports no llama.cpp engine"
    if not worker.devices:
        return Rule.NO_DEVICES, "it reports no devices"
    selector, files = request.spec.worker_selector, request.files
    if selector and not worker.matches(selector):
        missing = {key: value for key, value in selector.items() if worker.labels.get(key) != value}
        asked = ", ".join(f"{key}={value}" for key, value in sorted(missing.items()))
        return Rule.SELECTOR, f"it lacks the label {asked}"
    if files.source.kind is SourceKind.FILE and worker.name not in files.found_on:
        return Rule.FILE_MISSING, f"{files.source.path} was not found on it when the model was read"
    return None


def _refused_device(
    device: Device,
    request: PlacementRequest,
    chosen: frozenset[tuple[WorkerName, DeviceId]],
    worker: WorkerName,
    held: Held,
) -> tuple[Rule, str] | None:
    if chosen and (worker, device.id) not in chosen:
        return Rule.DEVICE_NOT_CHOSEN, "the deployment names other devices"
    if device.kind is DeviceKind.CUDA and not is_supported(device):
        return (
            Rule.COMPUTE_CAPABILITY,
            f"{device.name or device.id} has compute capability {device.compute_capability}, and 6.0 is the least",
        )
    asked = request.spec.min_compute_capability
    if asked is not None and device.kind is DeviceKind.CUDA:
        has = device.compute_capability
        if not has or capability(has) < capability(asked):
            known = f"has compute capability {has}" if has else "does not say its compute capability"
            return Rule.COMPUTE_CAPABILITY, f"{device.name or device.id} {known}, and {asked} is asked for"
    if device.id in held.devices:
        return Rule.RESERVED, "it is kept free for an instance that has waited longer"
    return None
