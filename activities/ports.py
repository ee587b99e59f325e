"""What activities need of the outside, as protocols. `entrypoints` hands in what satisfies them."""

from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import Protocol

from stoker.domain.base import DeploymentName, InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.files import Peer
from stoker.domain.gguf import ModelProfile
from stoker.domain.links import WorkerLink
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelFiles, ModelSource
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.statuses import DeploymentProjection, FileProgress, InstanceProjection, InstanceStatus
from stoker.domain.workers import Engine, WorkerState
from stoker.model_source_error import ModelSourceError as ModelSourceError

# --- on the hosts ---------------------------------------------------------------------------------------------------


class ProcessKey(Value):
    """Names one process on a host: an incarnation of an instance, in its role."""

    instance_id: InstanceId
    incarnation: int
    role: str = "main"  # "main" (llama-server), "rpc" (ggml-rpc-server), "link" (the way from the one to the others)


class ProcessPhase(StrEnum):
    """STARTING → LOADING → READY → EXITED."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    EXITED = "exited"


class ProcessStatus(Value):
    """What the supervisor sees of one process now."""

    phase: ProcessPhase
    pid: int = 0
    port: int = 0  # 0 until it listens
    ports: tuple[int, ...] = ()  # of a link: one for each of its peers, in their order; none until all are open
    adopted: bool = False  # started by an earlier agent
    progress: float = 0.0  # of loading, 0 to 1
    exit_code: int | None = None  # None: alive, or not our child and so unknown
    cause: str = ""  # of its end: the engine's first error line, or what the exit code means
    retryable: bool = True  # whether starting again may help
    worker: str = ""  # whose fault its end was, where that is known to be another's
    frozen: bool = False  # it was ended because it stood still


class MainServerSpec(Value):
    """What a host must start for one incarnation. No secrets: the agent adds the engine's key itself."""

    key: ProcessKey
    deployment: str
    spec: DeploymentSpec
    placement: Placement
    model_path: str
    pooling: bool = False
    rpc_ports: tuple[int, ...] = ()  # on loopback: the link's, in the order of `llamacpp.rpc_peers`
    patience: int = 1  # so many times as long as usual it may stand still before it counts as frozen


class RpcServerSpec(Value):
    """What a host must start to lend the devices that `placement` has of it."""

    key: ProcessKey
    placement: Placement
    worker: WorkerName  # the host's own name
    threads: int | None = None  # of its CPU; None: the engine's choice


class MeshPeer(Value):
    """The gateway of a worker: its one door for other hosts."""

    worker: WorkerName
    host: str
    port: int


class LinkSpec(Value):
    """What the main server's host must start to reach its RPC servers."""

    key: ProcessKey
    worker: WorkerName  # that host's own name
    peers: tuple[MeshPeer, ...]  # in the order of `llamacpp.rpc_peers`


ProcessSpec = MainServerSpec | RpcServerSpec | LinkSpec


class ProcessSupervisor(Protocol):
    """Starts, adopts, watches and kills the processes of one host. Every verb may be repeated."""

    async def ensure_started(self, spec: ProcessSpec) -> ProcessStatus:
        """Adopts the process of that key if it lives, starts it if it was never started.

        A process of that key that has ended already is not started again: its EXITED status is returned.
        Raises ProcessStartError when it cannot be started at all.
        """
        ...

    def watch(self, key: ProcessKey) -> AsyncGenerator[ProcessStatus, None]:
        """Yields the status now and at every change; EXITED comes last. Leaving it lets go of the process."""
        ...

    async def measure(self, key: ProcessKey) -> MeasuredMemory | None:
        """What a READY process holds, by its engine's log, the host and the drivers; None where that is not known.

        Answers within some seconds and never raises.
        """
        ...

    async def drain(self, key: ProcessKey, settle_seconds: float, timeout_seconds: float) -> bool:
        """Waits `settle_seconds` (routes go), then until no request is in work; False at the deadline."""
        ...

    async def kill(self, key: ProcessKey) -> None:
        """Ends the process (SIGTERM, then SIGKILL) and returns when it is gone. Unknown or ended keys are fine."""
        ...


class HostMesh(Protocol):
    """This host as a member of groups that span several."""

    @property
    def engine(self) -> Engine:
        """Its llama.cpp."""
        ...

    @property
    def gateway(self) -> MeshPeer:
        """Its own door for the others; port 0 while it has none."""
        ...

    async def check(self, peer: MeshPeer) -> WorkerLink:
        """Measures the way from here to a peer's gateway. Answers within some seconds and never raises."""
        ...


class ProcessStartError(Exception):
    """The process could not be started; `code` is stable, `retryable` says whether trying again may help."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code, self.retryable = code, retryable


class DownloadProgress(Value):
    """Bytes on disk of all files of the model together, and of each of them."""

    done: int
    total: int
    files: tuple[FileProgress, ...] = ()
    from_peers: int = 0  # bytes that came from other workers so far
    evicted: tuple[str, ...] = ()  # keys of the models that had to go to make room


class EvictionRefusedError(Exception):
    """A model's files stay where they are; `code` is "file_in_use", "file_not_own" or "not_found"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ModelStore(Protocol):
    """The model files on one host."""

    async def inspect(self, path: str) -> tuple[ModelFiles, ModelProfile]:
        """Reads the header(s) of a file on this host. Raises ModelSourceError."""
        ...

    def fetch(
        self, files: ModelFiles, *, user: InstanceId = "", peers: Sequence[Peer] = (), keep: Sequence[str] = ()
    ) -> AsyncGenerator[DownloadProgress, None]:
        """Makes the files present; yields progress, complete when exhausted. Closing it stops the download at once.

        `user`: the instance that wants them. `peers`: workers to ask before the hub. `keep`: keys of models that must
        not go, should room have to be made.
        """
        ...

    async def evict(self, model: str, *, force: bool = False) -> int:
        """Takes a model's files (by `ModelFiles.key`) off the disk; the bytes that are free now.

        `force`: also files that Stoker did not fetch itself. Raises EvictionRefusedError, and ModelSourceError when the
        disk refuses.
        """
        ...

    def local_path(self, files: ModelFiles) -> str:
        """The absolute path to give to the engine (the first shard), once `fetch` has ended."""
        ...


# --- on the control plane ---------------------------------------------------------------------------------------------


class ModelHub(Protocol):
    """Model repositories on a hub."""

    async def inspect(self, source: ModelSource) -> tuple[ModelFiles, ModelProfile]:
        """Resolves a source to files at a pinned commit and reads only the header(s). Raises ModelSourceError."""
        ...


class Projections(Protocol):
    """The rows that the API and people read. Written by workflows only, idempotent."""

    def put_deployment(self, projection: DeploymentProjection) -> None:
        """Inserts or updates the deployment's row."""
        ...

    def remove_deployment(self, name: str) -> None:
        """Removes the deployment's row and those of its instances."""
        ...

    def put_instance(self, projection: InstanceProjection) -> None:
        """Inserts or updates the instance's row; an update from an older incarnation changes nothing."""
        ...

    def remove_instance(self, instance_id: InstanceId) -> None:
        """Removes the instance's row. Claims that it still holds stay: they are not this port's to give back."""
        ...


class Ledger(Protocol):
    """Claims. Each call is one transaction."""

    def place(self, request: PlacementRequest) -> Placement | Unplaceable:
        """Claims a place; the same instance and incarnation get the same answer again while they hold it."""
        ...

    def release(
        self, instance_id: InstanceId, incarnation: int | None = None, unconfirmed: Sequence[WorkerName] = ()
    ) -> tuple[InstanceId, ...]:
        """Gives claims back (of every incarnation when None); returns the pending instances that fit now.

        Those on `unconfirmed` workers, where a process may still be, stay until their agents say that it is gone.
        """
        ...

    def abandon(self, instance_id: InstanceId) -> None:
        """As `release` of all that the instance holds, with no worker's word."""
        ...

    def ready_workers(self, spec: DeploymentSpec) -> tuple[WorkerName, ...]:
        """Workers that could read a file for this spec now."""
        ...


class KnownLinks(Protocol):
    """What the checks of the ways between workers found, by the rows."""

    def keep(self, links: Sequence[WorkerLink]) -> None:
        """Replaces what was known of the same pairs."""
        ...


class Occupancy(Protocol):
    """What is on which worker, by the rows."""

    def worker_state(self, worker: WorkerName) -> WorkerState | None:
        """The worker's state now, or None when there is no such worker."""
        ...

    def on_worker(self, worker: WorkerName) -> tuple[InstanceStatus, ...]:
        """The instances whose main server is there, or that it lends a device to."""
        ...

    def of_deployment(self, deployment: DeploymentName) -> tuple[InstanceStatus, ...]:
        """All instances of the deployment."""
        ...

    def stop_draining(self, worker: WorkerName) -> None:
        """The worker is emptied no more, if it was; one that was stays cordoned."""
        ...


class FileHolders(Protocol):
    """Which models lie on which worker, and which must stay there, by the rows."""

    def peers(self, model: str, *, besides: WorkerName) -> tuple[Peer, ...]:
        """Workers that hold the model (by `ModelFiles.key`) whole and can be asked for it now, the best first."""
        ...

    def placed_on(self, worker: WorkerName) -> tuple[str, ...]:
        """Keys of the models of all instances whose main server has its place there."""
        ...


class InstanceCalls(Protocol):
    """Ways to reach instances' workflows from outside them."""

    async def wake(self, instance_ids: Sequence[InstanceId]) -> None:
        """Signals `capacity`. An instance that is gone is fine."""
        ...

    async def ended(self, instance_ids: Sequence[InstanceId]) -> tuple[InstanceId, ...]:
        """Those of `instance_ids` whose workflow is closed or does not exist."""
        ...
