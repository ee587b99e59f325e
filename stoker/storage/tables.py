"""The tables. JSON columns hold domain values whole; what is searched or joined has a column of its own."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Index, Integer, Table, Text, TypeDecorator
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


RowNumber = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself in an INTEGER column only
Json = JSON().with_variant(JSONB(), "postgresql")


class WorkerRow(SQLModel, table=True):
    """One worker: its last report, and the secrets that it and we share."""

    __tablename__ = "worker"
    name: str = Field(primary_key=True)
    report: dict[str, Any] = Field(sa_type=Json)  # a Worker value
    report_version: int = Field(default=1, sa_type=BigInteger)  # one more whenever the report says something else
    cordoned: bool = False
    draining: bool = False  # cordoned too then
    credential_hash: str  # HMAC of the worker's own credential
    engine_secret: str  # from which each engine's key is derived
    files: list[dict[str, Any]] = Field(default_factory=list, sa_type=Json)  # StoredFile values: what it last told
    joined_at: datetime = Field(sa_type=UtcDateTime)
    seen_at: datetime = Field(sa_type=UtcDateTime)


class DeploymentRow(SQLModel, table=True):
    """One deployment, as its workflow projected it."""

    __tablename__ = "deployment"
    name: str = Field(primary_key=True)
    projection: dict[str, Any] = Field(sa_type=Json)  # a DeploymentProjection value
    generation: int
    priority: int = 0  # of the projection's spec
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class DeploymentRevisionRow(SQLModel, table=True):
    """One generation of a deployment: a Revision value."""

    __tablename__ = "deployment_revision"
    deployment: str = Field(primary_key=True)
    generation: int = Field(primary_key=True)
    instances_generation: int
    spec: dict[str, Any] = Field(sa_type=Json)  # a DeploymentSpec value
    profile: dict[str, Any] = Field(sa_type=Json)  # a ModelProfile value
    files: dict[str, Any] = Field(sa_type=Json)  # a ModelFiles value
    state: str
    ran: bool = False
    by: str = ""
    reason: str = Field(default="", sa_type=Text)
    created_at: datetime = Field(sa_type=UtcDateTime)


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
    request_digest: str = ""  # of the request: tells whether it is the one that is known already
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
    ending: bool = False  # given up, but its process is not confirmed gone: nobody else gets the bytes before


class FleetChangeRow(SQLModel, table=True):
    """When the claims on a worker, or its standing (joined, cordoned, draining), last changed; see fleet_changes."""

    __tablename__ = "fleet_change"
    worker: str = Field(primary_key=True)
    version: int = Field(sa_type=BigInteger, index=True)


class KeyRow(SQLModel, table=True):
    """One API key. Only its HMAC is kept."""

    __tablename__ = "api_key"
    id: str = Field(primary_key=True)
    name: str
    role: str
    hash: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    models: list[str] = Field(default_factory=list, sa_type=Json)
    limits: dict[str, Any] = Field(default_factory=dict, sa_type=Json)  # a KeyLimits value


class KeyChangeRow(SQLModel, table=True):
    """How often keys have changed; one row. Whoever changes a key counts here in the same transaction."""

    __tablename__ = "key_change"
    id: int = Field(primary_key=True)
    version: int = Field(sa_type=BigInteger)


class ModelRouteRow(SQLModel, table=True):
    """One name that clients may use for deployments."""

    __tablename__ = "model_route"
    name: str = Field(primary_key=True)
    spec: dict[str, Any] = Field(sa_type=Json)  # a RouteSpec value
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class UsageRow(SQLModel, table=True):
    """One request to a model: a UsageRecord value. Rows go after the time that they are kept; their sums stay."""

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_key_id", "key_id", "ended_at"),)  # each key's owner may page through its own
    id: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    ended_at: datetime = Field(sa_type=UtcDateTime, index=True)
    key_id: str
    model: str
    asked: str
    instance_id: str
    path: str
    status: int
    streamed: bool
    input_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    first_token_seconds: float
    seconds: float


class UsageHourRow(SQLModel, table=True):
    """The sums of the requests that ended within one hour (UTC), kept for good."""

    __tablename__ = "usage_hour"
    hour: datetime = Field(sa_type=UtcDateTime, primary_key=True)  # its beginning
    key_id: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    status_class: str = Field(primary_key=True)  # "2xx"; "gone"
    requests: int = Field(sa_type=BigInteger)
    input_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    cached_tokens: int = Field(sa_type=BigInteger)
    first_token_seconds: float  # of all streams together
    streams: int = Field(sa_type=BigInteger)  # that had a first token
    next_tokens_seconds: float  # of all streams together: from the first token to the end
    next_tokens: int = Field(sa_type=BigInteger)  # written by streams after their first
    seconds: float  # of all requests together


class UsageBatchRow(SQLModel, table=True):
    """The last batch of records that one recording process has written: a batch that is sent again is known by it."""

    __tablename__ = "usage_batch"
    recorder: str = Field(primary_key=True)
    batch: int = Field(sa_type=BigInteger)
    records: int = Field(sa_type=BigInteger)  # written by this recorder, all batches together
    written_at: datetime = Field(sa_type=UtcDateTime)


class AuditRow(SQLModel, table=True):
    """One change that somebody asked for: an AuditEntry value. Rows go after the time that they are kept."""

    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True, sa_type=RowNumber)
    at: datetime = Field(sa_type=UtcDateTime, index=True)
    key_id: str
    key_name: str
    action: str
    method: str
    path: str = Field(sa_type=Text)
    object: str = Field(index=True)
    changes: list[dict[str, Any]] = Field(sa_type=Json)  # FieldChange values
    status: int
    request_id: str


class AuthorityRow(SQLModel, table=True):
    """The cluster's own certificate authority; one row. The private key is encrypted under the server's secret."""

    __tablename__ = "authority"
    id: int = Field(primary_key=True)
    certificate: str = Field(sa_type=Text)  # PEM
    private_key: str = Field(sa_type=Text)  # encrypted
    created_at: datetime = Field(sa_type=UtcDateTime)


class EndedSessionRow(SQLModel, table=True):
    """A session of the web page that was ended before its time."""

    __tablename__ = "ended_session"
    digest: str = Field(primary_key=True)  # HMAC of what is random in its cookie
    expires_at: datetime = Field(sa_type=UtcDateTime)  # when nobody needs to know any more


class CertificateRow(SQLModel, table=True):
    """One certificate that the authority gave out, until it has expired."""

    __tablename__ = "certificate"
    serial: str = Field(primary_key=True)  # hexadecimal, lower case, no leading zeros
    holder: str = Field(index=True)  # "worker/w1" or "server"
    expires_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class JoinTokenRow(SQLModel, table=True):
    """One token with which one worker may join. Only its HMAC is kept."""

    __tablename__ = "join_token"
    id: str = Field(primary_key=True)
    hash: str = Field(index=True)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=Json)  # what the worker that uses it is labelled
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    used_by: str = ""  # the worker


class WorkerLinkRow(SQLModel, table=True):
    """What the last check of the way from one worker's mesh to another's found."""

    __tablename__ = "worker_link"
    worker: str = Field(primary_key=True)  # where a main server runs
    peer: str = Field(primary_key=True)  # whose devices it uses
    round_trip_seconds: float = 0.0
    bytes_per_second: int = Field(default=0, sa_type=BigInteger)
    problem: str = Field(default="", sa_type=Text)  # why it is no way; empty: it is one
    checked_at: datetime = Field(sa_type=UtcDateTime)


class DemandRow(SQLModel, table=True):
    """What one API process last told of one deployment that demand scales; see `stoker.domain.scaling`."""

    __tablename__ = "demand"
    process: str = Field(primary_key=True)
    deployment: str = Field(primary_key=True)
    busy: int  # requests in work, waiting for a slot, or held until there is a replica
    asked: int = Field(sa_type=BigInteger)  # requests since the process began
    beat: int = Field(sa_type=BigInteger)  # another one whenever it tells anything
    told_at: datetime = Field(sa_type=UtcDateTime)


def table_of(row: type[SQLModel]) -> Table:
    """The table itself, for statements that read and write values and no rows."""
    table: Table = row.__table__  # type: ignore[attr-defined]  # SQLModel does not declare it
    return table
