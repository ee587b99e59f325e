"""What activities need of the outside, as protocols. `entrypoints` hands in what satisfies them."""

from collections.abc import AsyncGenerator, Sequence
from enum import StrEnum
from typing import Protocol

from stoker.domain.base import InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.gguf import ModelProfile
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelFiles, ModelSource
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.statuses import DeploymentProjection, InstanceProjection
from stoker.model_source_error import ModelSourceError as ModelSourceError

# --- on the hosts ---------------------------------------------------------------------------------------------------


class ProcessKey(Value):
    """Names one process on a host: an incarnation of an instance, in its role."""

    instance_id: InstanceId
    incarnation: int
    role: str = "main"  # "main" (llama-server); later "rpc"


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
    adopted: bool = False  # started by an earlier agent
    progress: float = 0.0  # of loading, 0 to 1
    exit_code: int | None = None  # None: alive, or not our child and so unknown
    cause: str = ""  # of its end: the engine's first error line, or what the exit code means
    retryable: bool = True  # whether starting again may help


class MainServerSpec(Value):
    """What a host must start for one incarnation. No secrets: the agent adds the engine's key itself."""

    key: ProcessKey
    deployment: str
    spec: DeploymentSpec
    placement: Placement
    model_path: str
    pooling: bool = False


class ProcessSupervisor(Protocol):
    """Starts, adopts, watches and kills the processes of one host. Every verb may be repeated."""

    async def ensure_started(self, server: MainServerSpec) -> ProcessStatus:
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


class ProcessStartError(Exception):
    """The process could not be started; `code` is stable, `retryable` says whether trying again may help."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code, self.retryable = code, retryable


class DownloadProgress(Value):
    """Bytes on disk of all files of the model together."""

    done: int
    total: int


class ModelStore(Protocol):
    """The model files on one host."""

    async def inspect(self, path: str) -> tuple[ModelFiles, ModelProfile]:
        """Reads the header(s) of a file on this host. Raises ModelSourceError."""
        ...

    def fetch(self, files: ModelFiles) -> AsyncGenerator[DownloadProgress, None]:
        """Makes the files present; yields progress, complete when exhausted. Closing it stops the download at once."""
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

    def release(self, instance_id: InstanceId, incarnation: int | None = None) -> tuple[InstanceId, ...]:
        """Gives claims back (of every incarnation when None); returns the pending instances that fit now."""
        ...

    def ready_workers(self, spec: DeploymentSpec) -> tuple[WorkerName, ...]:
        """Workers that could read a file for this spec now."""
        ...


class InstanceCalls(Protocol):
    """Ways to reach instances' workflows from outside them."""

    async def wake(self, instance_ids: Sequence[InstanceId]) -> None:
        """Signals `capacity`. An instance that is gone is fine."""
        ...

    async def ended(self, instance_ids: Sequence[InstanceId]) -> tuple[InstanceId, ...]:
        """Those of `instance_ids` whose workflow is closed or does not exist."""
        ...
