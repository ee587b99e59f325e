"""Inputs and results of activities: one frozen value in, one out. New fields need defaults: old histories replay."""

from typing import Literal

from activities.ports import MeshPeer
from stoker.domain.base import Bytes, DeploymentName, InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.files import Peer
from stoker.domain.gguf import ModelProfile
from stoker.domain.links import WorkerLink
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelFiles, ModelSource
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.workers import Engine


class InspectInput(Value):
    """Which model to read the header of."""

    source: ModelSource


class InspectedModel(Value):
    """A model's files, and what their header says."""

    files: ModelFiles
    profile: ModelProfile


class EstimateInput(Value):
    """Which model is to be served how."""

    spec: DeploymentSpec
    profile: ModelProfile


class EstimateResult(Value):
    """What the whole model needs on one GPU, and on a CPU."""

    on_gpu: MemoryEstimate
    on_cpu: MemoryEstimate


class InspectResult(Value):
    """What a host says of a file: None when it does not have it."""

    model: InspectedModel | None = None


class ReadyWorkersInput(Value):
    """For which deployment workers are looked for."""

    spec: DeploymentSpec


class ReadyWorkersResult(Value):
    """Names of the workers that are there and admitted by the spec."""

    workers: tuple[WorkerName, ...]


class PlaceResult(Value):
    """Exactly one of the two is set."""

    placement: Placement | None = None
    unplaceable: Unplaceable | None = None


class ReleaseInput(Value):
    """Whose claims to give back.

    All incarnations' when `incarnation` is None: its workflow is over, and nobody has seen its processes end.
    """

    instance_id: InstanceId
    incarnation: int | None = None
    unconfirmed: tuple[WorkerName, ...] = ()  # where a process of it may still be: nobody has said that it is gone


class ReleaseResult(Value):
    """The pending instances that were told that they may fit now."""

    woken: tuple[InstanceId, ...]


class RemoveDeploymentInput(Value):
    """Which deployment's rows go."""

    name: DeploymentName


class RemoveInstanceInput(Value):
    """Which instance's row goes."""

    instance_id: InstanceId


class SweepInput(Value):
    """The instances that a deployment believes to be alive."""

    instance_ids: tuple[InstanceId, ...]


class SweepResult(Value):
    """Those whose workflow is gone (terminated, say); their claims are given back."""

    ended: tuple[InstanceId, ...]


class LookAtWorkerInput(Value):
    """Which worker is being drained, and of which deployment an instance is about to leave it, if one is."""

    worker: WorkerName
    deployment: DeploymentName | Literal[""] = ""


class SeenInstance(Value):
    """An instance, as far as a drain needs to know."""

    instance_id: InstanceId
    deployment: DeploymentName
    state: InstanceState
    message: str = ""
    workers: tuple[WorkerName, ...] = ()  # the main server's, then those that lend it devices; none: not placed


class LookAtWorkerResult(Value):
    """What is on the worker now."""

    draining: bool  # whether it is still to be emptied
    there: tuple[SeenInstance, ...] = ()  # those that use it, by id
    youngest: SeenInstance | None = None  # of the deployment's instances elsewhere


class StopDrainingInput(Value):
    """Which worker nobody empties any more."""

    worker: WorkerName


class FetchInput(Value):
    """Which files to make present on this host, whom to ask for them before the hub, and what must stay here."""

    instance_id: InstanceId
    files: ModelFiles
    peers: tuple[Peer, ...] = ()
    keep: tuple[str, ...] = ()  # keys of the models of other instances that have their place here


class FetchResult(Value):
    """Where the engine finds the first shard, and how many bytes came over the network.

    `from_peers`: so many of them from other workers. `evicted`: the models that had to go to make room.
    """

    model_path: str
    fetched: Bytes = 0
    from_peers: Bytes = 0
    evicted: tuple[str, ...] = ()


class LookForFilesInput(Value):
    """Which model a worker is about to fetch."""

    model: str  # `ModelFiles.key`
    worker: WorkerName


class LookForFilesResult(Value):
    """Who has it already, and which models must stay on the worker that fetches."""

    peers: tuple[Peer, ...] = ()
    keep: tuple[str, ...] = ()


class EvictInput(Value):
    """Which model's files to take off this host's disk; `force`: also those that Stoker did not fetch."""

    model: str  # `ModelFiles.key`
    force: bool = False


class EvictResult(Value):
    """Bytes that are free now."""

    freed: Bytes


class MainReady(Value):
    """Signalled to the instance when its main server answers; again by every agent that adopts it.

    With port 0 it takes back an earlier one: the server that answered is gone, and another one loads in its place.
    """

    incarnation: int
    port: int
    pid: int
    adopted: bool = False
    load_seconds: float = 0.0  # from the process's start to its first answer; 0 where that was not seen
    memory: MeasuredMemory | None = None  # None where its engine does not tell


class RpcReady(Value):
    """Signalled to the instance when a worker's RPC server waits for its main server; again by whoever adopts it."""

    incarnation: int
    worker: WorkerName
    pid: int
    port: int  # on the worker's loopback
    gateway: MeshPeer  # the way to it
    engine: Engine
    adopted: bool = False


class LinkReady(Value):
    """Signalled to the instance when its main server's host reaches all its RPC servers; again by whoever adopts it."""

    incarnation: int
    pid: int
    ports: tuple[int, ...]  # on that host's loopback: one for each peer, in their order
    adopted: bool = False


class PeerToCheck(Value):
    """A worker that is to lend devices, as its agent told of itself."""

    gateway: MeshPeer
    engine: Engine


class CheckLinksInput(Value):
    """To which peers the way is to be checked, on the main server's host."""

    worker: WorkerName  # that host's name
    peers: tuple[PeerToCheck, ...]


class CheckLinksResult(Value):
    """The way to each of them, in their order; nothing where the engines differ, and less where one is none.

    `differs`: the first whose engine is not this host's, or this host where all the others agree; `cause` says how.
    """

    links: tuple[WorkerLink, ...] = ()
    differs: WorkerName | Literal[""] = ""
    cause: str = ""


class KeepLinksInput(Value):
    """What was measured."""

    links: tuple[WorkerLink, ...]


class DrainInput(Value):
    """Which process to drain, and for how long at most."""

    instance_id: InstanceId
    incarnation: int
    settle_seconds: float
    timeout_seconds: float


class DrainResult(Value):
    """Whether the last request had ended before the deadline."""

    idle: bool


class ProcessEnd(Value):
    """How a process ended by itself."""

    exit_code: int | None = None
    cause: str
    retryable: bool = True
    code: str = ""  # stable, of ends that others must tell apart: "engines_differ", "frozen" …
    worker: WorkerName | Literal[""] = ""  # whose fault it was; empty: not known
