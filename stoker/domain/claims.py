"""What is claimed on which device, and what that leaves."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from stoker.domain.base import Bytes, DeviceId, InstanceId, Value, WorkerName
from stoker.domain.workers import Device, DeviceKind, Worker


class Claim(Value):
    """Bytes of one device that one incarnation of one instance may use. Booked on the worker whose memory it is."""

    instance_id: InstanceId
    incarnation: int
    worker: WorkerName
    device: DeviceId
    size: Bytes


class Snapshot(Value):
    """All workers and all claims at one moment: everything that a placement decision may look at."""

    workers: tuple[Worker, ...]
    claimed: Mapping[tuple[WorkerName, DeviceId], int]

    @classmethod
    def of(cls, workers: Iterable[Worker], claims: Iterable[Claim]) -> Self:
        """A snapshot of `workers` with the sums of `claims` on their devices."""
        claimed: dict[tuple[str, str], int] = defaultdict(int)
        for claim in claims:
            claimed[claim.worker, claim.device] += claim.size
        return cls(workers=tuple(workers), claimed=dict(claimed))

    def claimed_on(self, worker: Worker, device: Device) -> int:
        """Bytes claimed on `device`."""
        return self.claimed.get((worker.name, device.id), 0)

    def allocatable(self, worker: Worker, device: Device) -> int:
        """Bytes of `device` that can still be claimed; see `allocatable`."""
        return allocatable(worker, device, lambda one: self.claimed_on(worker, one))

    def plus(self, claims: Iterable[Claim]) -> "Snapshot":
        """The snapshot as it would be with `claims` added."""
        claimed = dict(self.claimed)
        for claim in claims:
            key = (claim.worker, claim.device)
            claimed[key] = claimed.get(key, 0) + claim.size
        return Snapshot(workers=self.workers, claimed=claimed)


def allocatable(worker: Worker, device: Device, claimed_on: Callable[[Device], int], *, given_back: float = 0.0) -> int:
    """Bytes that can still be claimed: total - reserve - max(claims, what is really in use), never below 0.

    The larger of the two counts, since a claim is often not in use yet, and what is in use is often not claimed.
    Unified memory counts once: claims on such a GPU are claims on its host's RAM too, and neither has more left than
    the other. `given_back`: as if so much of all claims (0 to 1) were given back, with what is in use by them.
    """

    def left(device: Device, claimed: int) -> int:
        back = int(given_back * claimed)
        used = device.used - min(back, device.used)
        return device.total - device.reserve - max(claimed - back, used)

    size = left(device, claimed_on(device))
    if device.unified or device.kind is DeviceKind.CPU:
        unified = [other for other in worker.devices if other.unified]
        for ram in worker.devices if unified else ():
            if ram.kind is DeviceKind.CPU:
                size = min(size, left(ram, claimed_on(ram) + sum(claimed_on(other) for other in unified)))
    return max(0, size)
