"""Placement by enumeration: the best place of a request, worked out without any cleverness.

Every set of devices is looked at, in every order, with every share of the layers (`Costs.covers` keeps all positions
that a set can reach, not the best ones only), and every worker is tried as the main server. What a stretch of layers
takes is what the public `estimate` says of it. Slow, and only for fleets of some eight devices and models of some
twelve layers.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, combinations, pairwise, permutations
from typing import NamedTuple

from stoker.domain.claims import Snapshot
from stoker.domain.estimation.estimate import DRIVER_OVERHEAD, MAX_DEVICES, estimate
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.models import SourceKind
from stoker.domain.placement.lending import RPC_SERVER_RAM
from stoker.domain.placement.types import PlacementRequest, Tier
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState
from tests.stoker.domain.placement.costs import Costs, Slot


class Best(NamedTuple):
    """The best place, by what makes it so."""

    tier: Tier
    layers: int  # on devices other than the main server's CPU
    workers: int
    devices: int  # that hold them


def best_place(snapshot: Snapshot, request: PlacementRequest, costs: Costs | None = None) -> Best | None:
    """The best place of `request`; None: there is none. `costs`: those of its model and options, if at hand."""
    if isinstance(estimate(request.profile, request.spec.options), EstimateRefusal):
        return None
    costs = costs or Costs(request.profile, request.spec.options)
    without, every = (Reference(snapshot, request, costs, with_avoided=avoided) for avoided in (False, True))
    for tiers in zip(without.tiers(), every.tiers(), strict=True):
        for places in map(list, tiers):
            if places:
                return min(places, key=_preference)
    return None


class Reference:
    """One request on one fleet, with the workers that it is to avoid or without."""

    def __init__(self, snapshot: Snapshot, request: PlacementRequest, costs: Costs, *, with_avoided: bool) -> None:
        self._snapshot, self._request, self._spec = snapshot, request, request.spec
        self._costs = costs
        self._most = self._costs.layers
        self._workers = [worker for worker in snapshot.workers if self._is_admitted(worker)]
        if not with_avoided:
            self._workers = [worker for worker in self._workers if worker.name not in request.avoid]
        self._mains = [worker for worker in self._workers if self._may_be_main(worker)]

    def tiers(self) -> tuple[Iterator[Best], ...]:
        """The places of each tier, worked out when they are asked for."""
        if self._spec.tensor_split:
            return self._split_on_one_worker(), self._split_on_several_workers()
        return (
            self._on_one_device(),
            self._on_one_worker(),
            self._on_several_workers(),
            self._partly_on_one_worker(),
            self._partly_on_several_workers(),
            self._on_one_cpu(),
            self._on_several_cpus(),
        )

    # --- the tiers ----------------------------------------------------------------------------------------------------

    def _on_one_device(self) -> Iterator[Best]:
        host = self._costs.host(0, any_gpu=True)
        if self._may_offload(self._most):
            for worker in self._mains:
                slots = self._own_gpus(worker, host) if self._has_ram(worker, host) else []
                if any(self._costs.whole() <= slot.cap for slot in slots):
                    yield Best(Tier.ONE_DEVICE, self._most, 1, 1)

    def _on_one_worker(self) -> Iterator[Best]:
        for worker in self._mains:
            yield from self._whole(worker, [])

    def _on_several_workers(self) -> Iterator[Best]:
        for main, peers in self._groups():
            yield from self._whole(main, peers)

    def _whole(self, main: Worker, peers: Sequence[Worker]) -> Iterator[Best]:
        host = self._costs.host(0, any_gpu=True, pipelined=True)
        if not self._may_offload(self._most) or not self._has_ram(main, host):
            return
        slots = (*self._own_gpus(main, host), *chain.from_iterable(self._lent_gpus(peer) for peer in peers))
        for used, starts in self._used(slots, pipelined=True):
            workers = {slot.worker for slot in used}
            if starts & 1 and main.name in workers and len(used) > 1 and bool(peers) == (len(workers) > 1):
                tier = Tier.SEVERAL_WORKERS if peers else Tier.ONE_WORKER
                yield Best(tier, self._most, len(workers), len(used))

    def _partly_on_one_worker(self) -> Iterator[Best]:
        for worker in self._mains:
            for first, host in self._on_own_cpu(worker, any_gpu=True):
                yield from self._partly(worker, first, self._own_gpus(worker, host), Tier.PART_ON_CPU)

    def _partly_on_several_workers(self) -> Iterator[Best]:
        for main, peers in self._groups():
            lent = list(chain.from_iterable(self._lent_gpus(peer) for peer in peers))
            for first, host in self._on_own_cpu(main, any_gpu=True):
                slots = [*self._own_gpus(main, host), *lent]
                yield from self._partly(main, first, slots, Tier.PART_ON_CPU_SEVERAL_WORKERS)

    def _on_one_cpu(self) -> Iterator[Best]:
        host = self._costs.host(self._most, any_gpu=False)
        if self._may_offload(0) and any(self._computes(one) and self._has_ram(one, host) for one in self._mains):
            yield Best(Tier.CPU, 0, 1, 0)

    def _on_several_cpus(self) -> Iterator[Best]:
        """Every set of peers that lend GPUs is tried, and the main server with its own and without: RAM hangs on it."""
        if self._spec.gpu_layers is not None:
            return
        for main, peers in self._groups():
            for lending in chain.from_iterable(combinations(peers, count) for count in range(len(peers) + 1)):
                lent = list(chain.from_iterable(self._lent_cpu(peer, with_gpus=peer in lending) for peer in peers))
                for own in (False, True):
                    for first, host in self._on_own_cpu(main, any_gpu=own or bool(lending)):
                        slots = [*(self._own_gpus(main, host) if own else ()), *lent]
                        yield from self._partly(main, first, slots, Tier.CPU_SEVERAL_WORKERS)

    def _partly(self, main: Worker, first: int, slots: Sequence[Slot], tier: Tier) -> Iterator[Best]:
        """With the layers before `first` on the CPU of `main`, the others on `slots`."""
        for used, starts in self._used(tuple(slots), pipelined=False):
            workers = {main.name, *(slot.worker for slot in used)}
            if not starts >> first & 1 or (len(workers) > 1) != (tier is not Tier.PART_ON_CPU):
                continue
            if (tier is Tier.CPU_SEVERAL_WORKERS) == any(not slot.on_gpu for slot in used):
                yield Best(tier, self._most - first, len(workers), len(used))

    def _split_on_one_worker(self) -> Iterator[Best]:
        for worker in self._mains:
            yield from self._split(worker, [])

    def _split_on_several_workers(self) -> Iterator[Best]:
        for main, peers in self._groups():
            yield from self._split(main, peers)

    def _split(self, main: Worker, peers: Sequence[Worker]) -> Iterator[Best]:
        """As `tensor_split` says, in the order of `devices` where these are as many, else in any order."""
        counts = self._spec.tensor_split
        first = self._most - sum(counts)
        pipelined = first == 0 and len(counts) > 1
        if first < 0 or (first and not self._computes(main)):
            return
        host = self._costs.host(first, any_gpu=True, pipelined=pipelined)
        if not self._has_ram(main, host):
            return
        sizes = [
            self._costs.whole()
            if len(counts) == 1 and not first
            else self._costs.device(start, end, on_gpu=True, pipelined=pipelined)
            for start, end in pairwise(accumulate(counts, initial=first))
        ]
        slots = [*self._own_gpus(main, host), *chain.from_iterable(self._lent_gpus(peer) for peer in peers)]
        named = self._spec.devices if len(self._spec.devices) == len(counts) else ()
        for used in permutations(slots, len(counts)):
            workers = {slot.worker for slot in used} | ({main.name} if first else set())
            if main.name not in workers or bool(peers) != (len(workers) > 1):
                continue
            if named and tuple((slot.worker, slot.device) for slot in used) != named:
                continue
            if all(slot.cap >= size for slot, size in zip(used, sizes, strict=True)):
                one = Tier.ONE_WORKER if len(counts) > 1 else Tier.ONE_DEVICE
                tier = Tier.PART_ON_CPU if first else one
                several = Tier.PART_ON_CPU_SEVERAL_WORKERS if first else Tier.SEVERAL_WORKERS
                yield Best(several if peers else tier, sum(counts), len(workers), len(counts))

    def _used(self, slots: tuple[Slot, ...], *, pipelined: bool) -> Iterator[tuple[list[Slot], int]]:
        for chosen, starts in enumerate(self._costs.covers(slots, pipelined=pipelined)):
            if starts and 0 < chosen.bit_count() <= MAX_DEVICES:
                yield [slot for index, slot in enumerate(slots) if chosen >> index & 1], starts

    # --- what may be used ---------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[Worker, list[Worker]]]:
        """Every main server with all those that can be in a group with it."""
        if self._spec.distributed:
            able = [one for one in self._workers if one.serves_rpc and one.engine and one.engine.rpc_protocol]
            for main in filter(self._may_be_main, able):
                yield main, [one for one in able if one is not main and one.engine == main.engine]

    def _on_own_cpu(self, main: Worker, *, any_gpu: bool) -> Iterator[tuple[int, int]]:
        """How many layers the CPU of `main` may hold beside devices that hold the others, and the RAM that it takes."""
        for first in range(1, self._most):
            host = self._costs.host(first, any_gpu=any_gpu)
            if self._computes(main) and self._may_offload(self._most - first) and self._has_ram(main, host):
                yield first, host

    def _own_gpus(self, worker: Worker, taken: int) -> list[Slot]:
        """GPUs of `worker`; where they have no memory but its RAM, `taken` bytes of that are used otherwise."""
        ram = self._ram(worker)
        rooms = [(d, self._snapshot.allocatable(worker, d)) for d in worker.devices if self._is_usable(worker, d)]
        return [
            Slot(worker.name, device.id, True, room if ram is None or not device.unified else min(room, ram - taken))
            for device, room in rooms
        ]

    def _lent_gpus(self, peer: Worker) -> list[Slot]:
        taken = RPC_SERVER_RAM + DRIVER_OVERHEAD
        return self._own_gpus(peer, taken) if self._has_ram(peer, taken) else []

    def _lent_cpu(self, peer: Worker, *, with_gpus: bool) -> list[Slot]:
        """The CPU of `peer`, and its GPUs too."""
        taken = RPC_SERVER_RAM + (DRIVER_OVERHEAD if with_gpus else 0)
        cpu, ram = _cpu_of(peer), self._ram(peer)
        if not self._has_ram(peer, taken):
            return []
        gpus = self._own_gpus(peer, taken) if with_gpus else []
        if cpu is None or ram is None or not self._computes(peer):
            return gpus
        if gpus and any(device.unified for device in peer.devices):
            return gpus  # it lends the one or the other: they are the same memory
        return [*gpus, Slot(peer.name, cpu.id, False, ram - taken)]

    def _ram(self, worker: Worker) -> int | None:
        """Bytes of RAM that are left; None: not counted."""
        cpu = _cpu_of(worker)
        return None if cpu is None else self._snapshot.allocatable(worker, cpu)

    def _has_ram(self, worker: Worker, needed: int) -> bool:
        ram = self._ram(worker)
        return ram is None or needed <= ram

    def _may_offload(self, layers: int) -> bool:
        """Whether exactly so many may be on devices."""
        return self._spec.gpu_layers is None or min(self._spec.gpu_layers, self._most) == layers

    @cached_property
    def _cpus_compute(self) -> bool:
        """Whether any CPU that may be used may hold layers: where it was accepted, or no GPU could be asked."""
        if self._spec.cpu_offload or (self._spec.gpu_layers is not None and self._spec.gpu_layers < self._most):
            return True
        asked = [worker for worker in self._snapshot.workers if worker.matches(self._spec.worker_selector)]
        devices = [device for worker in asked for device in worker.devices if device.kind is not DeviceKind.CPU]
        return not self._spec.devices and not any(map(_is_supported, devices))

    def _computes(self, worker: Worker) -> bool:
        cpu = _cpu_of(worker)
        return cpu is not None and (self._cpus_compute or (worker.name, cpu.id) in self._spec.devices)

    def _is_admitted(self, worker: Worker) -> bool:
        return (
            worker.state is WorkerState.READY
            and worker.engine is not None
            and bool(worker.devices)
            and worker.matches(self._spec.worker_selector)
            and (not self._spec.devices or any(name == worker.name for name, _ in self._spec.devices))
        )

    def _may_be_main(self, worker: Worker) -> bool:
        """The main server reads the model's file; those that lend devices are sent their layers."""
        files = self._request.files
        return files.source.kind is not SourceKind.FILE or worker.name in files.found_on

    def _is_usable(self, worker: Worker, device: Device) -> bool:
        """Whether layers may be on `device`, a GPU."""
        if device.kind is DeviceKind.CPU or (self._spec.devices and (worker.name, device.id) not in self._spec.devices):
            return False
        asked = self._spec.min_compute_capability
        if device.kind is DeviceKind.CUDA and asked is not None:
            known = device.compute_capability
            return bool(known) and float(known) >= max(6.0, float(asked))
        return _is_supported(device)


def _is_supported(device: Device) -> bool:
    """llama.cpp has no code for NVIDIA devices before 6.0; one that does not say what it is, is tried."""
    return not device.compute_capability or float(device.compute_capability) >= 6.0


def _cpu_of(worker: Worker) -> Device | None:
    return next((device for device in worker.devices if device.kind is DeviceKind.CPU), None)


def _preference(place: Best) -> tuple[int, int, int]:
    """Most layers on devices, fewest workers, fewest devices; with CPUs of several workers, the last two alone."""
    return 0 if place.tier is Tier.CPU_SEVERAL_WORKERS else -place.layers, place.workers, place.devices
