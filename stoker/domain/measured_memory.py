"""What a running instance really took, beside what was estimated for it."""

import re
from collections.abc import Mapping

from pydantic import Field

from stoker.domain.base import Bytes, DeviceId, Value, WorkerName
from stoker.domain.estimation.types import DeviceMemory, HostMemory
from stoker.domain.measurements import Buffers, MemoryMeasurement
from stoker.domain.placement.types import DeviceShare, Placement

HOST = "host"
"""Stands for the host's RAM where devices are named."""

TOLERATED_ERROR = 0.02
"""How far above the estimate the engine may be: the formulae are its own, and more is a mistake in them."""

_MAPPED = "CPU_Mapped"  # llama.cpp's name for pages of the model's file
_REMOTE = re.compile(r"(?P<device>RPC[0-9]{1,3})\[(?P<endpoint>[^]]{1,300})\]")


class MeasuredMemory(MemoryMeasurement):
    """What a main server holds just after it began to answer.

    The buffers are its engine's own; what the host and the driver count includes all else (the driver's context,
    libraries, the process).
    """

    process_resident: Bytes = 0  # RAM, mapped pages of the model's file included; 0: not known
    devices_used: dict[DeviceId, Bytes] = Field(default_factory=dict)  # by this process; none where no driver tells


class MemoryComparison(Value):
    """One device of an instance, or its host."""

    device: DeviceId  # HOST for the host
    estimated: DeviceMemory | HostMemory
    measured: Buffers | None = None
    used: Bytes | None = None  # by the process there, whatever for; None: not known

    @property
    def overhead(self) -> int | None:
        """Bytes that the process holds there beyond the engine's buffers; None where that is not known.

        Not of the host: pages of the model's file come and go, and a buffer counts only as far as it was written to.
        """
        if self.measured is None or self.used is None or self.device == HOST:
            return None
        return max(0, self.used - self.measured.total)

    @property
    def error_ratio(self) -> float | None:
        """(measured - estimated) / estimated of all that the engine allocates: the overhead is not part of it.

        Above 0 the engine took more. None before it is measured, and where nothing was estimated.
        """
        expected = self.estimated.total - self.estimated.overhead
        if self.measured is None or not expected:
            return None
        return (self.measured.total - expected) / expected

    @property
    def exceeds(self) -> bool:
        """Whether the engine took more than an estimate may be off."""
        return self.error_ratio is not None and self.error_ratio > TOLERATED_ERROR


def compare_memory(placement: Placement, measured: MeasuredMemory | None) -> tuple[MemoryComparison, ...]:
    """The placement's accelerators in their order, then the host.

    Of a group's lent devices the buffers must bear their worker's name: see `with_workers`.
    """
    compared = [
        MemoryComparison(
            device=share.device,
            estimated=estimated,
            measured=_buffers_on(name, measured) if measured is not None else None,
            used=measured.devices_used.get(share.device)
            if measured is not None and placement.worker_of(share) == placement.worker
            else None,
        )
        for share, name, estimated in zip(
            placement.offloaded, _buffer_names(placement), placement.estimate.devices, strict=False
        )  # none in rows from before 0.1
    ]
    host = MemoryComparison(
        device=HOST,
        estimated=placement.estimate.host,
        measured=_buffers_of_host(measured, placement) if measured is not None else None,
        used=(measured.process_resident or None) if measured is not None else None,
    )
    return (*compared, host)


def with_workers(measured: MeasuredMemory, workers: Mapping[str, WorkerName]) -> MeasuredMemory:
    """The same with the worker in place of each endpoint: `RPC0[127.0.0.1:4711]` becomes `RPC0[gpu-2]`.

    `workers`: whose RPC server the main server reaches at HOST:PORT. The ports are another's the next time.
    """

    def named(buffer: str) -> str:
        match = _REMOTE.fullmatch(buffer)
        worker = workers.get(match["endpoint"]) if match is not None else None
        return f"{match['device']}[{worker}]" if match is not None and worker is not None else buffer

    return measured.model_copy(update={"buffers": tuple((named(name), sizes) for name, sizes in measured.buffers)})


def _buffer_names(placement: Placement) -> tuple[str, ...]:
    """What the buffers of each device with layers are called: of a lent one, by its number on its own worker."""
    seen: dict[WorkerName, int] = {}

    def name(share: DeviceShare) -> str:
        owner = placement.worker_of(share)
        if owner == placement.worker:
            return share.engine_name
        seen[owner] = seen.get(owner, -1) + 1
        return f"RPC{seen[owner]}[{owner}]"

    return tuple(map(name, placement.offloaded))


def _buffers_of_host(measured: MeasuredMemory, placement: Placement) -> Buffers:
    """All buffers of the host, weights counted once, as they are estimated.

    Weights that the CPU's kernels want in another order are copied (`CPU_REPACK`, `AMX`). The file's mapped pages of
    the same weights are cache then, which the system takes back when it needs them. So are those of weights that went
    to devices: llama.cpp maps the file from the first to the last tensor that stays, whatever lies between them. How
    much does, it does not say: what may, and would be more than was estimated, is taken to.
    """
    weights = {name: buffers.weights for name, buffers in measured.buffers}
    mapped = weights.get(_MAPPED, 0)
    known = {name for name, _ in measured.devices} | {_MAPPED, "CPU"}
    copied = sum(size for name, size in weights.items() if name not in known and not name.endswith("_Host"))
    held = measured.host.weights - min(mapped, copied)
    elsewhere = min(mapped, sum(buffers.weights for _, buffers in measured.devices))
    beyond = max(0, held - placement.estimate.host.weights)
    return measured.host.model_copy(update={"weights": held - min(elsewhere, beyond)})


def _buffers_on(engine_name: str, measured: MeasuredMemory) -> Buffers:
    """All buffers of one device: a backend may keep several there (`MTL0_Mapped`, `MTL0_Private`)."""
    parts = [buffers for name, buffers in measured.devices if name == engine_name or name.startswith(f"{engine_name}_")]
    return Buffers(**{field: sum(getattr(part, field) for part in parts) for field in Buffers.model_fields})
