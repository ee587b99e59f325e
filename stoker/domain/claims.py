"""What is claimed on which device, and what that leaves."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Self

from stoker.domain.base import Bytes, DeviceId, InstanceId, Value, WorkerName
from stoker.domain.workers import Device, Worker


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
        """Bytes that can still be claimed: total - reserve - max(claims, what is really in use), never below 0.

        The larger of the two counts, since a claim is often not in use yet, and what is in use is often not claimed.
        """
        return max(0, device.total - device.reserve - max(self.claimed_on(worker, device), device.used))

    def plus(self, claims: Iterable[Claim]) -> "Snapshot":
        """The snapshot as it would be with `claims` added."""
        claimed = dict(self.claimed)
        for claim in claims:
            key = (claim.worker, claim.device)
            claimed[key] = claimed.get(key, 0) + claim.size
        return Snapshot(workers=self.workers, claimed=claimed)
