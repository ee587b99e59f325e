"""Workers as REST reads them."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from stoker.domain.claims import Snapshot
from stoker.domain.statuses import WorkerStatus
from stoker.domain.workers import DeviceKind, WorkerState


class DeviceRead(BaseModel):
    """One device. `allocatable` = total - reserve - max(claimed, used)."""

    id: str
    kind: DeviceKind
    name: str
    compute_capability: str = Field(description="NVIDIA's, like 8.9; empty: another make, or not known.")
    unified: bool = Field(description="Its memory is the host's RAM.")
    total_bytes: int
    reserve_bytes: int
    claimed_bytes: int
    used_bytes: int
    allocatable_bytes: int
    temperature_c: int | None = Field(
        default=None, description="At the last report, in degrees Celsius; null: it does not tell."
    )
    load_ratio: float | None = Field(
        default=None, description="Of its time that it computed, of late, 0 to 1; null: it does not tell."
    )


class EngineRead(BaseModel):
    """The worker's llama.cpp."""

    kind: str
    version: str
    rpc_protocol: str | None


class WorkerRead(BaseModel):
    """One GPU host."""

    name: str
    state: WorkerState
    address: str
    labels: dict[str, str]
    os: str
    agent_version: str
    engine: EngineRead | None
    devices: list[DeviceRead]
    serves_rpc: bool = Field(description="Whether it can lend its devices to another worker's main server.")
    holds: list[str] = Field(description="Models from a hub whose files lie there whole.")
    instances: list[str] = Field(description="Those that hold something of it, by id.")
    joined_at: datetime
    seen_at: datetime

    @classmethod
    def of_status(cls, status: WorkerStatus) -> Self:
        """The worker as read from its row and its claims."""
        worker = status.worker
        snapshot = Snapshot.of([worker], status.claims)
        return cls(
            name=worker.name,
            state=worker.state,
            address=worker.address,
            labels=worker.labels,
            os=worker.os,
            agent_version=worker.agent_version,
            engine=EngineRead(**worker.engine.model_dump()) if worker.engine else None,
            devices=[
                DeviceRead(
                    id=device.id,
                    kind=device.kind,
                    name=device.name,
                    compute_capability=device.compute_capability,
                    unified=device.unified,
                    total_bytes=device.total,
                    reserve_bytes=device.reserve,
                    claimed_bytes=snapshot.claimed_on(worker, device),
                    used_bytes=device.used,
                    allocatable_bytes=snapshot.allocatable(worker, device),
                    temperature_c=device.temperature_c,
                    load_ratio=device.load_ratio,
                )
                for device in worker.devices
            ],
            serves_rpc=worker.serves_rpc,
            holds=list(worker.holds),
            instances=sorted({claim.instance_id for claim in status.claims}),
            joined_at=status.joined_at,
            seen_at=status.seen_at,
        )


class WorkerRemoved(BaseModel):
    """A worker that is no more."""

    name: str
    instances: list[str] = Field(description="Those that held something of it, and go on elsewhere.")
    certificates_revoked: int
