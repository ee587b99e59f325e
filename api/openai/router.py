"""Which engine answers a request. Pure: values in, a value out; the time is passed in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from pydantic import Field

from api.openai.errors import Header
from api.openai.exchange import Address
from stoker.domain.base import InstanceId, Value, WorkerName
from stoker.domain.deployments import DEFAULT_QUEUE
from stoker.domain.model_routes import RouteSpec
from stoker.mesh.ways import GatewayService

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0

PROMPT_BYTES_LIKE_A_REQUEST = 16_384
"""So many bytes of prompt weigh as much as one more request: some 4,000 tokens, read while others are being written."""

PATIENCE = 1.0
"""So much more load than elsewhere, in requests a slot, a conversation puts up with to find its prefix."""


@dataclass(frozen=True, slots=True)
class Replica:
    """An engine that answers for a model: one running instance.

    `address` is where it is reached. Load and health are kept by it: an instance that starts anew is another engine.
    """

    instance_id: InstanceId
    host: str
    port: int
    api_key: str = field(default="", repr=False)  # the engine's own; empty: it asks for none
    slots: int = 1  # requests it works on at once
    gateway: GatewayService | None = None  # that leads to it; None: it is reached at `host` and `port` itself
    address: Address = field(init=False, repr=False, compare=False)
    credentials: tuple[Header, ...] = field(init=False, repr=False, compare=False)  # the key, as the engine asks for it

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.gateway or (self.host, self.port))
        credentials = ((b"authorization", b"Bearer " + self.api_key.encode()),) if self.api_key else ()
        object.__setattr__(self, "credentials", credentials)


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
    queue: int = DEFAULT_QUEUE  # requests that may wait while all slots are taken
    autoscaled: bool = False  # whether demand decides how many replicas there are
    worker: WorkerName | Literal[""] = ""  # where it loads
    progress: float | None = None  # of loading, 0 to 1
    message: str = ""
    eta_seconds: float | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether requests wait for its first replica: it starts because of them."""
        return self.autoscaled and not self.replicas and self.state is not ModelState.FAILED

    @property
    def sleeps(self) -> bool:
        """Whether it starts only when somebody asks it."""
        return self.autoscaled and self.state is ModelState.STOPPED


class RouteTable(Value):
    """Every model that can be asked for: deployments by their own names, and `routes` by other names for them."""

    models: Mapping[str, ModelRoute] = Field(default_factory=dict)
    routes: Mapping[str, RouteSpec] = Field(default_factory=dict)


class RouteSource(Protocol):
    """Where the route table comes from."""

    def current(self) -> RouteTable:
        """The table as it was last read: at once, from memory."""
        ...

    async def refresh(self) -> RouteTable:
        """The table read anew, if it was not just read. When it cannot be read, the old table; never an error."""
        ...


class Work:
    """What one engine now works on for this process."""

    __slots__ = ("prompt_bytes", "requests")

    def __init__(self, requests: int = 0, prompt_bytes: int = 0) -> None:
        self.requests, self.prompt_bytes = requests, prompt_bytes


_NO_WORK = Work()


def load_of(replica: Replica, work: Work, prompt_bytes: int = 0, processes: int = 1) -> float:
    """How busy the replica would be with one more request of that size: 1.0 is a request for each of its slots."""
    prompts = (work.prompt_bytes * processes + prompt_bytes) / PROMPT_BYTES_LIKE_A_REQUEST
    return (work.requests * processes + 1 + prompts) / replica.slots


def choose(
    replicas: Sequence[Replica],
    work: Mapping[Address, Work],
    *,
    own: Replica | None = None,
    prompt_bytes: int = 0,
    processes: int = 1,
) -> Replica | None:
    """The replica for one more request; None when there is none.

    `work` is this process's; each of `processes` that share the replicas is taken to have given them as much.

    1. `own`, which holds the conversation's prefix, as long as it has a free slot.
    2. Of those with a free slot the one with the least load. Ties go to more slots, then to the first: it is the
       likelier to hold the prompt's prefix already.
    3. Where no slot is free: `own`, unless its load is higher than the least by more than PATIENCE; then the one with
       the least load.
    """
    if len(replicas) == 1:
        return replicas[0]
    if own is not None and work.get(own.address, _NO_WORK).requests * processes < own.slots:
        return own
    best, best_key = None, (True, math.inf, 0)
    for replica in replicas:
        known = work.get(replica.address, _NO_WORK)
        taken = known.requests * processes >= replica.slots
        key = (taken, load_of(replica, known, prompt_bytes, processes), -replica.slots)
        if key < best_key:
            best, best_key = replica, key
    if own is not None and best_key[0]:
        known = work.get(own.address, _NO_WORK)
        if load_of(own, known, prompt_bytes, processes) <= best_key[1] + PATIENCE:
            return own
    return best


class Strike(Value):
    """The failures of one engine since it last answered."""

    count: int
    retry_at: float  # seconds, of the clock that the caller uses

    def is_out(self, now: float, *, tried: bool) -> bool:
        """Whether the engine is to be passed over: until `retry_at`, and then for all but one request that tries it.

        `tried`: there is such a request. Others may be in flight there still, for minutes: they began before.
        """
        return now < self.retry_at or tried


def strike(before: Strike | None, now: float) -> Strike:
    """A further failure: out at once, for a time that doubles from FIRST_BACKOFF_SECONDS to MAX_BACKOFF_SECONDS.

    Failures while it is out are those of requests that began before: they do not count again.
    """
    if before is not None and now < before.retry_at:
        return before
    count = 1 if before is None else before.count + 1
    pause = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(count - 1, 32), MAX_BACKOFF_SECONDS)
    return Strike(count=count, retry_at=now + pause)
