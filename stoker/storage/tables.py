"""The tables. JSON columns hold domain values whole; what is searched or joined has a column of its own."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets time zones, so what comes back is told again that it is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON().with_variant(JSONB(), "postgresql")


class WorkerRow(SQLModel, table=True):
    """One worker: its last report, and the secrets that it and we share."""

    __tablename__ = "worker"
    name: str = Field(primary_key=True)
    report: dict[str, Any] = Field(sa_type=Json)  # a Worker value
    cordoned: bool = False
    credential_hash: str  # HMAC of the worker's own credential
    engine_secret: str  # from which each engine's key is derived
    joined_at: datetime = Field(sa_type=UtcDateTime)
    seen_at: datetime = Field(sa_type=UtcDateTime)


class DeploymentRow(SQLModel, table=True):
    """One deployment, as its workflow projected it."""

    __tablename__ = "deployment"
    name: str = Field(primary_key=True)
    projection: dict[str, Any] = Field(sa_type=Json)  # a DeploymentProjection value
    generation: int
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class InstanceRow(SQLModel, table=True):
    """One instance: what its workflow projected, what the claiming transaction decided, what its agent reports."""

    __tablename__ = "instance"
    id: str = Field(primary_key=True)
    deployment: str = Field(index=True)
    generation: int
    incarnation: int
    state: str = Field(index=True)
    message: str = Field(default="", sa_type=Text)
    port: int = 0
    pid: int = 0
    load_seconds: float = 0.0
    memory: dict[str, Any] | None = Field(default=None, sa_type=Json)  # a MeasuredMemory value
    worker: str = ""
    request: dict[str, Any] | None = Field(default=None, sa_type=Json)  # the PlacementRequest that is held or waits
    placement: dict[str, Any] | None = Field(default=None, sa_type=Json)
    unplaceable: dict[str, Any] | None = Field(default=None, sa_type=Json)
    progress: dict[str, Any] | None = Field(default=None, sa_type=Json)
    pending_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    state_since: datetime = Field(sa_type=UtcDateTime)


class ClaimRow(SQLModel, table=True):
    """Bytes of one device held by one incarnation of one instance."""

    __tablename__ = "claim"
    instance_id: str = Field(primary_key=True)
    incarnation: int = Field(primary_key=True)
    worker: str = Field(primary_key=True, index=True)
    device: str = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger)


class KeyRow(SQLModel, table=True):
    """One API key. Only its HMAC is kept."""

    __tablename__ = "api_key"
    id: str = Field(primary_key=True)
    name: str
    role: str
    hash: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
