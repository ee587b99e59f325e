"""Inputs, states and signals of the workflows: a wire contract, kept in every history. New fields need defaults."""

from pydantic import Field

from stoker.domain.base import Bytes, DeploymentName, InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles, ModelSource
from stoker.domain.revisions import RolledBack
from stoker.domain.rollout import Replica, ReplicaPhase


class InstanceInput(Value):
    """One incarnation of an instance; continues-as-new with the next."""

    instance_id: InstanceId
    generation: int
    spec: DeploymentSpec
    profile: ModelProfile
    files: ModelFiles
    incarnation: int = 1
    failures: int = 0  # ends in a row that nobody asked for
    avoid: tuple[WorkerName, ...] = ()  # workers where the last of them happened
    avoid_until: dict[WorkerName, float] = Field(default_factory=dict)  # of a group's members: Unix seconds
    frozen: int = 0  # ends in a row for which it stood still


class InstanceChanged(Value):
    """Signalled to the deployment at every change of phase; `ended` when the instance's workflow is over."""

    instance_id: InstanceId
    generation: int
    phase: ReplicaPhase
    ended: bool = False
    failures: int = 0  # ends in a row that nobody asked for
    message: str = ""  # why the last of them happened


class StopRequest(Value):
    """Signalled to an instance: end, and say why. Of two, the one with less patience counts."""

    reason: str
    patience: float = 30.0  # seconds that requests in work may go on for


class WorkerLost(Value):
    """Signalled to an instance that uses the worker: go on without it, and wait for no word of it."""

    worker: WorkerName
    reason: str = ""  # for people: "gpu-2 has not reported for 31 s"


class ApplyInput(Value):
    """What is wanted now. `expected_generation` guards against overwriting somebody else's change."""

    spec: DeploymentSpec
    expected_generation: int | None = None
    by: str = ""  # whose change it is: the name of a key
    reason: str = ""  # why, where Stoker knows
    known: "Wanted | None" = None  # what was read of a hub's model when it was wanted before: the same files again


class ApplyResult(Value):
    """The generation that now holds; `created` when there was none before."""

    generation: int
    created: bool = False


class DeleteInput(Value):
    """Why the deployment goes."""

    reason: str = "deleted by an administrator"
    expected_generation: int | None = None


class ReplaceRequest(Value):
    """Signalled to a deployment: another instance is to take this one's place. May be repeated."""

    instance_id: InstanceId
    reason: str
    tell: str = ""  # id of a workflow that is signalled `instance_gone` when the instance is; empty: nobody


class KeepRequest(Value):
    """Signalled to a deployment: this instance may stay after all, if it was not told to stop yet."""

    instance_id: InstanceId


class ScaleRequest(Value):
    """Signalled to an autoscaled deployment: it is to have so many replicas. May be repeated."""

    replicas: int
    seen: int  # that were wanted when this was decided; what was decided from another count takes none away
    reason: str = ""


class WakeRequest(Value):
    """Signalled to an autoscaled deployment: it is to have one replica at least. May be repeated."""

    reason: str = ""


class InstanceGone(Value):
    """Signalled to whoever asked for an instance to be replaced: its deployment has it no more."""

    instance_id: InstanceId


class Wanted(Value):
    """An accepted spec, with what was read of its model."""

    spec: DeploymentSpec
    profile: ModelProfile
    files: ModelFiles


class Trial(Value):
    """A generation that is rolled out and of which no instance ran yet, and what is wanted again if none ever does."""

    previous: Wanted
    previous_instances_generation: int
    seconds: float = 0.0  # of its time that had passed at `since`
    since: float | None = None  # Unix seconds; None: its time stands still
    made_room: bool = False  # whether an instance that ran was stopped so that a new one has room
    waited: float = 0.0  # seconds, up to `waits_since`, for which it waited for room and nothing was left that answers
    waits_since: float | None = None  # Unix seconds; None: it does not so now


class DeploymentState(Value):
    """All that a deployment remembers; handed from run to run."""

    wanted: Wanted | None = None  # None: no apply was accepted yet
    generation: int = 0  # counts every accepted change
    instances_generation: int = 0  # the generation whose spec the instances must be made from
    replicas: tuple[Replica, ...] = ()
    deleting: bool = False
    replacing: tuple[ReplaceRequest, ...] = ()  # asked for, and whoever asked was not told yet that it is done
    scaled: int | None = None  # replicas that demand asks for; None: as many as the spec begins with
    ran: int = 0  # the latest instances' generation of which one has run
    trial: Trial | None = None  # lasts from a change that rolls until the first new instance runs
    by: str = ""  # whose change the generation is; see ApplyInput
    reason: str = ""
    rolled_back: RolledBack | None = None  # the generation that this one took the place of by itself
    trial_shown: bool = False  # whether the row says that a generation is on trial


class DeploymentInput(Value):
    """A deployment's name, and what an earlier run left."""

    name: DeploymentName
    state: DeploymentState = DeploymentState()
    recovered: bool = False  # the state comes from the rows: what ran by them may be gone


class MovedInstance(Value):
    """One that is on the drained worker no more."""

    instance_id: InstanceId
    deployment: DeploymentName
    to: str = ""  # for people: who took its place, and where; empty: nobody, or it is not known


class StayingInstance(Value):
    """One that had its turn and is there still."""

    instance_id: InstanceId
    deployment: DeploymentName
    reason: str


class DrainState(Value):
    """All that a drain remembers; handed from run to run."""

    moved: tuple[MovedInstance, ...] = ()  # the latest of them
    staying: tuple[StayingInstance, ...] = ()


class DrainWorkerInput(Value):
    """Which worker is to be emptied, and how long each instance may take before the next has its turn."""

    worker: WorkerName
    move_seconds: float = 1800.0
    state: DrainState = DrainState()


class DrainWorkerResult(Value):
    """How a drain ended: nothing is left, or it was called off."""

    moved: tuple[MovedInstance, ...] = ()
    called_off: bool = False


class InspectionInput(Value):
    """Which file is to be looked at."""

    source: ModelSource


class EvictionInput(Value):
    """Which model is to go from which worker's disk; `force`: also where Stoker did not fetch it."""

    worker: WorkerName
    model: str  # `ModelFiles.key`
    force: bool = False


class EvictionResult(Value):
    """Bytes that are free on the worker's disk now."""

    freed: Bytes


class InspectionResult(Value):
    """The model's files, and what their header says."""

    files: ModelFiles
    profile: ModelProfile
