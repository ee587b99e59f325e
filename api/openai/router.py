"""Which engine answers a request. Pure: values in, a value out; the time is passed in."""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Literal, Protocol

from pydantic import Field

from api.openai.exchange import Address
from stoker.domain.base import InstanceId, Value, WorkerName

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0


class Replica(Value):
    """An engine that answers for a model: one running instance."""

    instance_id: InstanceId
    host: str
    port: int
    api_key: str = Field(default="", repr=False)  # the engine's own; empty: it asks for none
    slots: int = Field(default=1, ge=1)  # requests it works on at once

    @property
    def address(self) -> Address:
        """Where it listens. Load and health are kept by address: an instance that starts anew is another engine."""
        return (self.host, self.port)


class ModelState(StrEnum):
    """A deployment as its users see it."""

    READY = "ready"
    LOADING = "loading"
    PENDING = "pending"  # no room for it yet
    FAILED = "failed"
    STOPPED = "stopped"  # no replicas are wanted


class ModelRoute(Value):
    """A model and the engines that answer for it; without any, why not."""

    name: str
    created: int = 0  # Unix seconds
    state: ModelState = ModelState.READY
    replicas: tuple[Replica, ...] = ()
    worker: WorkerName | Literal[""] = ""  # where it loads
    progress: float | None = None  # of loading, 0 to 1
    message: str = ""
    eta_seconds: float | None = None


class RouteTable(Value):
    """Every model that can be asked for, by name."""

    models: Mapping[str, ModelRoute] = Field(default_factory=dict)


class RouteSource(Protocol):
    """Where the route table comes from."""

    def current(self) -> RouteTable:
        """The table as it was last read: at once, from memory."""
        ...

    async def refresh(self) -> RouteTable:
        """The table read anew, if it was not just read. When it cannot be read, the old table; never an error."""
        ...


def choose(
    replicas: Iterable[Replica],
    in_flight: Mapping[Address, int],
    excluded: Collection[Address] = (),
    unhealthy: Collection[Address] = (),
) -> Replica | None:
    """The replica with the least work for its size: the smallest (requests in flight + 1) / slots.

    Ties go to the one with more slots, then to the first: it is the likelier to hold the prompt's prefix already.
    Unhealthy replicas are asked only when no other is left: an engine that may be back beats a certain error.
    None when every replica is excluded.
    """
    candidates = [replica for replica in replicas if replica.address not in excluded]
    healthy = [replica for replica in candidates if replica.address not in unhealthy]
    return min(
        healthy or candidates,
        key=lambda replica: ((in_flight.get(replica.address, 0) + 1) / replica.slots, -replica.slots),
        default=None,
    )


class Strike(Value):
    """The failures of one engine since it last answered."""

    count: int
    retry_at: float  # seconds, of the clock that the caller uses

    def is_out(self, now: float, in_flight: int) -> bool:
        """Whether the engine is to be passed over: until `retry_at`, and then for all but one request that tries it."""
        return now < self.retry_at or in_flight > 0


def strike(before: Strike | None, now: float) -> Strike:
    """A further failure: out at once, for a time that doubles from FIRST_BACKOFF_SECONDS to MAX_BACKOFF_SECONDS.

    Failures while it is out are those of requests that began before: they do not count again.
    """
    if before is not None and now < before.retry_at:
        return before
    count = 1 if before is None else before.count + 1
    pause = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(count - 1, 32), MAX_BACKOFF_SECONDS)
    return Strike(count=count, retry_at=now + pause)
