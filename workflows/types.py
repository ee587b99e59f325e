"""Inputs, states and signals of the workflows: a wire contract, kept in every history. New fields need defaults."""

from stoker.domain.base import DeploymentName, InstanceId, Value, WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles, ModelSource
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


class InstanceChanged(Value):
    """Signalled to the deployment at every change of phase; `ended` when the instance's workflow is over."""

    instance_id: InstanceId
    generation: int
    phase: ReplicaPhase
    ended: bool = False


class StopRequest(Value):
    """Signalled to an instance: end, and say why."""

    reason: str


class ApplyInput(Value):
    """What is wanted now. `expected_generation` guards against overwriting somebody else's change."""

    spec: DeploymentSpec
    expected_generation: int | None = None


class ApplyResult(Value):
    """The generation that now holds; `created` when there was none before."""

    generation: int
    created: bool = False


class DeleteInput(Value):
    """Why the deployment goes."""

    reason: str = "deleted by an administrator"
    expected_generation: int | None = None


class Wanted(Value):
    """An accepted spec, with what was read of its model."""

    spec: DeploymentSpec
    profile: ModelProfile
    files: ModelFiles


class DeploymentState(Value):
    """All that a deployment remembers; handed from run to run."""

    wanted: Wanted | None = None  # None: no apply was accepted yet
    generation: int = 0  # counts every accepted change
    instances_generation: int = 0  # the generation whose spec the instances must be made from
    replicas: tuple[Replica, ...] = ()
    deleting: bool = False


class DeploymentInput(Value):
    """A deployment's name, and what an earlier run left."""

    name: DeploymentName
    state: DeploymentState = DeploymentState()
    recovered: bool = False  # the state comes from the rows: what ran by them may be gone


class InspectionInput(Value):
    """Which file is to be looked at."""

    source: ModelSource


class InspectionResult(Value):
    """The model's files, and what their header says."""

    files: ModelFiles
    profile: ModelProfile
