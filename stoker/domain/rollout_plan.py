"""What a change of a deployment would do, before it is made."""

from enum import StrEnum

from stoker.domain.base import InstanceId, Value
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.revisions import OnTrial
from stoker.domain.rollout import Replica, ReplicaPhase
from stoker.domain.scaling import scaled_after, wanted_replicas


class RolloutAction(StrEnum):
    """What applying a spec would come to."""

    CREATE = "create"
    CHANGE = "change"
    NONE = "none"  # it is as asked for already


class RolloutPlan(Value):
    """How many instances a change would replace, start and stop."""

    action: RolloutAction
    replaced: int = 0  # one at a time, each beside one more than wanted, where there is room for it
    started: int = 0  # besides
    stopped: int = 0  # besides
    ended_first: tuple[InstanceId, ...] = ()  # old ones that do not run: they go at once, with all they hold
    makes_room: InstanceId = ""  # the old one that goes first where there is no room beside it; empty: none

    @property
    def starts(self) -> bool:
        """Whether any instance is to be started."""
        return self.replaced + self.started > 0


def plan_rollout(
    before: DeploymentSpec | None,
    after: DeploymentSpec,
    replicas: tuple[Replica, ...],
    scaled: int | None = None,
    trial: OnTrial | None = None,
) -> RolloutPlan:
    """What applying `after` would do to a deployment of `before` (None: there is none) with those `replicas`.

    `scaled`: how many demand asks for, where that was looked at. `trial`: `before` is on it.
    """
    count = wanted_replicas(after, scaled_after(before, after, scaled))
    if before is None:
        return RolloutPlan(action=RolloutAction.CREATE, started=count)
    if before == after:
        return RolloutPlan(action=RolloutAction.NONE)
    live = [one for one in replicas if one.phase is not ReplicaPhase.STOPPING]
    started, stopped = max(0, count - len(live)), max(0, len(live) - count)
    if before.same_instances(after):
        return RolloutPlan(action=RolloutAction.CHANGE, started=started, stopped=stopped)
    if trial is not None and takes_back(trial, after):
        kept = [one for one in live if one.generation == trial.instances_generation]
        return RolloutPlan(
            action=RolloutAction.CHANGE,
            started=max(0, count - len(kept)),
            stopped=len(live) - min(len(kept), count),
            ended_first=tuple(one.instance_id for one in live if one not in kept),
        )
    running = [one.instance_id for one in live if one.phase is ReplicaPhase.RUNNING]
    return RolloutPlan(
        action=RolloutAction.CHANGE,
        replaced=min(len(live), count),
        started=started,
        stopped=stopped,
        ended_first=tuple(one.instance_id for one in live if one.instance_id not in running),
        makes_room=running[0] if running else "",
    )


def takes_back(trial: OnTrial, after: DeploymentSpec) -> bool:
    """Whether `after` ends the trial: the instances that it was to replace answer it, and stay."""
    return trial.previous.same_instances(after)
