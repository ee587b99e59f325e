"""The fleet: every worker with the room on its devices at one moment, in the form that placement searches.

It never changes: `plus` and its like make another one, and share all that stays as it was.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from stoker.domain.base import DeviceId, WorkerName
from stoker.domain.claims import Claim, Snapshot, allocatable
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState

LEAST_COMPUTE_CAPABILITY = (6, 0)
"""NVIDIA devices before Pascal are not supported: llama.cpp's CUDA build has no kernels for them."""


class Room(NamedTuple):
    """One device and the bytes that can still be claimed on it."""

    free: int
    device: Device
    worker: WorkerName
    on_gpu: bool  # else it is a CPU, and its bytes are RAM


@dataclass(frozen=True)
class Host:
    """One worker, with the bytes that are claimed on its devices.

    `barred` devices may not be used now, and `held_ram` bytes of the RAM neither. `given_back`: the part of all claims
    (0 to 1) that is looked at as if it were given back.
    """

    worker: Worker
    claimed: Mapping[DeviceId, int]
    barred: frozenset[DeviceId] = frozenset()
    held_ram: int = 0
    given_back: float = 0.0

    @cached_property
    def name(self) -> WorkerName:
        """The worker's."""
        return self.worker.name

    @cached_property
    def gpus(self) -> tuple[Room, ...]:
        """Its accelerators that may be used, the largest room first, then by id."""
        usable = [d for d in self.worker.devices if d.kind is not DeviceKind.CPU and d.id not in self.barred]
        rooms = [Room(self._free(device), device, self.name, True) for device in usable if is_supported(device)]
        unified = sorted((room for room in rooms if room.device.unified), key=_largest_first)[1:]
        return tuple(sorted((room for room in rooms if room not in unified), key=_largest_first))

    @cached_property
    def cpu(self) -> Room | None:
        """Its CPU, whose room is RAM; None where no RAM is offered: it is not counted then."""
        for device in self.worker.devices:
            if device.kind is DeviceKind.CPU:
                free = 0 if device.id in self.barred else max(0, self._free(device) - self.held_ram)
                return Room(free, device, self.name, False)
        return None

    @cached_property
    def gpu_bytes(self) -> int:
        """Room of all its accelerators together."""
        return sum(room.free for room in self.gpus)

    @cached_property
    def gpu_size(self) -> int:
        """Size of all its accelerators together, full or not."""
        return sum(room.device.total for room in self.gpus)

    @cached_property
    def preference(self) -> tuple[float, int, WorkerName]:
        """By what equally able hosts are told apart: the free part of all its accelerators, its bytes, its name."""
        return self.gpu_bytes / (self.gpu_size or 1), self.gpu_bytes, self.name

    @cached_property
    def has_equal_gpus(self) -> bool:
        """Whether all its accelerators have one size."""
        return len({room.device.total for room in self.gpus}) == 1

    @cached_property
    def emptiest(self) -> tuple[int, int]:
        """Bytes free of its largest GPU (-1: it has none), and that GPU's size.

        The size is 0 where it is not the whole story: devices of several sizes, unified memory, files that lie there.
        """
        if not self.gpus:
            return -1, 0
        is_simple = self.has_equal_gpus and not self.is_unified and not self.held_files
        return self.gpus[0].free, self.gpus[0].device.total if is_simple else 0

    @cached_property
    def is_unified(self) -> bool:
        """Whether one of its GPUs has no memory but the host's RAM, and that RAM is counted."""
        return self.cpu is not None and any(room.device.unified for room in self.gpus)

    @cached_property
    def has_gpus(self) -> bool:
        """Whether it has an accelerator that the engine has code for, be it free or not."""
        return any(device.kind is not DeviceKind.CPU and is_supported(device) for device in self.worker.devices)

    @cached_property
    def is_all_supported(self) -> bool:
        """Whether the engine has code for all its devices."""
        return all(is_supported(device) for device in self.worker.devices)

    @cached_property
    def held_files(self) -> frozenset[str]:
        """Keys of the models whose files lie there."""
        return frozenset(self.worker.holds)

    @cached_property
    def is_ready(self) -> bool:
        """Whether it takes new instances at all."""
        worker = self.worker
        return worker.state is WorkerState.READY and worker.engine is not None and bool(worker.devices)

    @cached_property
    def group(self) -> tuple[str, str, str] | None:
        """The engine that every member of a group over several workers must have; None: it can be in none."""
        engine = self.worker.engine
        if engine is None or not self.worker.serves_rpc or not engine.rpc_protocol:
            return None
        return engine.kind.value, engine.version, engine.rpc_protocol

    def has_ram(self, needed: int) -> bool:
        """Whether `needed` bytes of RAM can be claimed, or are not counted."""
        return self.cpu is None or self.cpu.free >= needed

    def without(self, devices: Iterable[DeviceId], *, ram: int = 0) -> "Host":
        """The same with more devices barred, and more RAM held."""
        return replace(self, barred=self.barred.union(devices), held_ram=self.held_ram + ram)

    def _free(self, device: Device) -> int:
        claimed = self.claimed
        return allocatable(self.worker, device, lambda one: claimed.get(one.id, 0), given_back=self.given_back)


class Fleet:
    """Hosts, in the order of their names. A change costs a copy of the mapping, and what was changed."""

    def __init__(self, hosts: Mapping[WorkerName, Host]) -> None:
        self._hosts = hosts

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Fleet":
        """All workers of `snapshot` with what is claimed of them."""
        claimed: dict[str, dict[str, int]] = {}
        for (worker, device), size in snapshot.claimed.items():
            claimed.setdefault(worker, {})[device] = size
        workers = sorted(
            snapshot.workers, key=lambda worker: worker.name
        )  # the order that they come in decides nothing
        return cls({worker.name: Host(worker, claimed.get(worker.name, {})) for worker in workers})

    @property
    def hosts(self) -> Mapping[WorkerName, Host]:
        """All of them, by name."""
        return self._hosts

    @cached_property
    def ready(self) -> tuple[Host, ...]:
        """Those that take new instances."""
        return tuple(host for host in self._hosts.values() if host.is_ready)

    @cached_property
    def has_gpus(self) -> bool:
        """Whether any of them has an accelerator."""
        return any(host.has_gpus for host in self._hosts.values())

    def snapshot(self) -> Snapshot:
        """All workers, and what is claimed of them."""
        claimed = {(name, device): size for name, host in self._hosts.items() for device, size in host.claimed.items()}
        return Snapshot(workers=tuple(host.worker for host in self._hosts.values()), claimed=claimed)

    def plus(self, claims: Iterable[Claim]) -> "Fleet":
        """With `claims` added. Claims on workers that are not there are left out."""
        return self._changed(claims, 1)

    def minus(self, claims: Iterable[Claim]) -> "Fleet":
        """With `claims` given back, and with what was in use by them: its last report still counts that."""
        claims = tuple(claims)
        freed: dict[WorkerName, dict[DeviceId, int]] = {}
        for claim in claims:
            sizes = freed.setdefault(claim.worker, {})
            sizes[claim.device] = sizes.get(claim.device, 0) + claim.size
        emptied = (_unused(self._hosts[name], sizes) for name, sizes in freed.items() if name in self._hosts)
        return self.with_hosts(emptied)._changed(claims, -1)

    def with_worker(self, worker: Worker, claimed: Mapping[DeviceId, int]) -> "Fleet":
        """With `worker` in the place of the one of that name, or added; `claimed`: bytes on its devices."""
        return self.with_hosts([Host(worker, claimed)])

    def with_hosts(self, hosts: Iterable[Host]) -> "Fleet":
        """With each of `hosts` in the place of the one of its name, or added."""
        changed = {host.name: host for host in hosts}
        together = {**self._hosts, **changed}
        return Fleet(together if len(together) == len(self._hosts) else dict(sorted(together.items())))

    def without(self, names: Iterable[WorkerName]) -> "Fleet":
        """Without those workers."""
        gone = frozenset(names)
        return Fleet({name: host for name, host in self._hosts.items() if name not in gone})

    def _changed(self, claims: Iterable[Claim], sign: int) -> "Fleet":
        touched: dict[str, dict[str, int]] = {}
        for claim in claims:
            if (host := self._hosts.get(claim.worker)) is not None:
                sizes = touched.setdefault(claim.worker, dict(host.claimed))
                sizes[claim.device] = sizes.get(claim.device, 0) + sign * claim.size
        return self.with_hosts(replace(self._hosts[name], claimed=sizes) for name, sizes in touched.items())


def _unused(host: Host, freed: Mapping[DeviceId, int]) -> Host:
    """The host when so many bytes of its devices are in use no more."""
    devices = tuple(
        device.model_copy(update={"used": device.used - min(device.used, freed[device.id])})
        if device.id in freed
        else device
        for device in host.worker.devices
    )
    return replace(host, worker=host.worker.model_copy(update={"devices": devices}))


def is_supported(device: Device) -> bool:
    """Whether the engine has code for it. An NVIDIA device that does not say what it is, is tried."""
    return not device.compute_capability or capability(device.compute_capability) >= LEAST_COMPUTE_CAPABILITY


def capability(text: str) -> tuple[int, int]:
    """ "8.9" as numbers that compare."""
    major, _, minor = text.partition(".")
    return int(major or 0), int(minor or 0)


def _largest_first(room: Room) -> tuple[int, DeviceId]:
    return -room.free, room.device.id
