"""What happens to the replicas that a deployment remembers. Pure: a state in, a state out."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from stoker.domain.base import InstanceId
    from stoker.domain.rollout import Replica, ReplicaPhase
    from workflows.types import DeploymentState, InstanceChanged, ReplaceRequest

_TROUBLE_CHARACTERS = 1000


def with_phase(state: DeploymentState, instance_id: InstanceId, phase: ReplicaPhase) -> DeploymentState:
    """The replica is in `phase` now. One that was told to stop stays so, whatever it still has to say."""

    def moved_on(replica: Replica) -> Replica:
        stopping = replica.phase is ReplicaPhase.STOPPING
        return replica if stopping else replica.model_copy(update={"phase": phase})

    replicas = (moved_on(one) if one.instance_id == instance_id else one for one in state.replicas)
    return state.model_copy(update={"replicas": tuple(replicas)})


def with_news(state: DeploymentState, change: InstanceChanged) -> DeploymentState:
    """What the instance says of itself. Once one of the wanted kind runs, its generation is on trial no more."""
    if change.phase is ReplicaPhase.RUNNING and change.generation == state.instances_generation:
        state = state.model_copy(update={"ran": change.generation, "trial": None})
    trouble = {"failures": change.failures, "trouble": change.message[:_TROUBLE_CHARACTERS]}
    replicas = (
        one.model_copy(update=trouble) if one.instance_id == change.instance_id else one for one in state.replicas
    )
    return with_phase(state.model_copy(update={"replicas": tuple(replicas)}), change.instance_id, change.phase)


def without(state: DeploymentState, instance_id: InstanceId) -> DeploymentState:
    """The replica is gone."""
    return state.model_copy(update={"replicas": tuple(r for r in state.replicas if r.instance_id != instance_id)})


def to_replace(state: DeploymentState, request: ReplaceRequest) -> DeploymentState:
    """The replica is to be replaced; whoever asked last is told when it is gone, also when it is gone already."""
    replacing = (*_but(state, request.instance_id), request)
    return _leaving(state, request.instance_id, leaving=True).model_copy(update={"replacing": replacing})


def to_keep(state: DeploymentState, instance_id: InstanceId) -> DeploymentState:
    """The replica need not be replaced any more, or whoever asked for it was told."""
    replacing = _but(state, instance_id)
    return _leaving(state, instance_id, leaving=False).model_copy(update={"replacing": replacing})


def replaced(state: DeploymentState) -> tuple[ReplaceRequest, ...]:
    """The requests whose replica is gone."""
    there = {replica.instance_id for replica in state.replicas}
    return tuple(request for request in state.replacing if request.instance_id not in there)


def _but(state: DeploymentState, instance_id: InstanceId) -> tuple[ReplaceRequest, ...]:
    return tuple(request for request in state.replacing if request.instance_id != instance_id)


def _leaving(state: DeploymentState, instance_id: InstanceId, *, leaving: bool) -> DeploymentState:
    replicas = (
        one.model_copy(update={"leaving": leaving}) if one.instance_id == instance_id else one for one in state.replicas
    )
    return state.model_copy(update={"replicas": tuple(replicas)})
