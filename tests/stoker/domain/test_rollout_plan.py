"""What a change would do to instances."""

import pytest

from stoker.domain.deployments import DeploymentSpec, EngineOptions
from stoker.domain.revisions import OnTrial
from stoker.domain.rollout import Replica, ReplicaPhase
from stoker.domain.rollout_plan import RolloutAction, RolloutPlan, plan_rollout
from tests.builders import make_spec

CREATE, CHANGE, NONE = RolloutAction.CREATE, RolloutAction.CHANGE, RolloutAction.NONE
TWO = make_spec(replicas=2)
OTHER = EngineOptions(slots=1)


def there(*phases: ReplicaPhase) -> tuple[Replica, ...]:
    return tuple(Replica(instance_id=f"i{number}", generation=1, phase=phase) for number, phase in enumerate(phases))


RUN, WAIT, STOP = ReplicaPhase.RUNNING, ReplicaPhase.PENDING, ReplicaPhase.STOPPING


@pytest.mark.parametrize(
    ("before", "after", "replicas", "expected"),
    [
        (None, TWO, (), RolloutPlan(action=CREATE, started=2)),
        (None, make_spec(replicas=0), (), RolloutPlan(action=CREATE)),
        (TWO, TWO, there(RUN, RUN), RolloutPlan(action=NONE)),
        (TWO, make_spec(replicas=2, priority=1), there(RUN, RUN), RolloutPlan(action=CHANGE)),
        (TWO, make_spec(replicas=5), there(RUN, RUN), RolloutPlan(action=CHANGE, started=3)),
        (TWO, make_spec(replicas=0), there(RUN, RUN, STOP), RolloutPlan(action=CHANGE, stopped=2)),
        (
            TWO,
            make_spec(replicas=2, options=OTHER),
            there(RUN, RUN),
            RolloutPlan(action=CHANGE, replaced=2, makes_room="i0"),
        ),
        (
            TWO,
            make_spec(replicas=3, options=OTHER),
            there(WAIT, RUN),
            RolloutPlan(action=CHANGE, replaced=2, started=1, ended_first=("i0",), makes_room="i1"),
        ),
        (
            TWO,
            make_spec(replicas=1, options=OTHER),
            there(RUN, RUN),
            RolloutPlan(action=CHANGE, replaced=1, stopped=1, makes_room="i0"),
        ),
        (TWO, make_spec(replicas=1, options=OTHER), (), RolloutPlan(action=CHANGE, started=1)),
    ],
)
def test_plan_rollout(
    before: DeploymentSpec | None, after: DeploymentSpec, replicas: tuple[Replica, ...], expected: RolloutPlan
) -> None:
    assert plan_rollout(before, after, replicas) == expected
    assert expected.starts is (expected.replaced + expected.started > 0)


@pytest.mark.parametrize(
    ("change", "replicas", "scaled", "expected"),
    [
        ({"options": OTHER}, (), 0, RolloutPlan(action=CHANGE)),  # it sleeps, and goes on sleeping
        ({"options": OTHER}, there(RUN), 1, RolloutPlan(action=CHANGE, replaced=1, makes_room="i0")),
        ({"replicas": 3}, (), 0, RolloutPlan(action=CHANGE, started=3)),
        ({"max_replicas": 2}, there(RUN, RUN, RUN), 3, RolloutPlan(action=CHANGE, stopped=1)),
        ({"min_replicas": None, "max_replicas": None}, (), 0, RolloutPlan(action=CHANGE, started=2)),
    ],
)
def test_where_demand_decides_how_many_there_are(
    change: dict[str, object], replicas: tuple[Replica, ...], scaled: int, expected: RolloutPlan
) -> None:
    before = TWO.model_copy(update={"min_replicas": 0, "max_replicas": 4})
    assert plan_rollout(before, before.model_copy(update=change), replicas, scaled) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (TWO, RolloutPlan(action=CHANGE, started=1, stopped=1, ended_first=("new",))),
        (make_spec(replicas=1), RolloutPlan(action=CHANGE, stopped=1, ended_first=("new",))),
        (
            make_spec(replicas=1, options=EngineOptions(slots=9)),
            RolloutPlan(action=CHANGE, replaced=1, stopped=1, ended_first=("new",), makes_room="i0"),
        ),
    ],
)
def test_what_a_trial_was_to_replace_stays_when_it_is_wanted_again(
    after: DeploymentSpec, expected: RolloutPlan
) -> None:
    on_trial = TWO.model_copy(update={"options": OTHER})
    replicas = (*there(RUN), Replica(instance_id="new", generation=2, phase=ReplicaPhase.STARTING))
    assert plan_rollout(on_trial, after, replicas, trial=OnTrial(previous=TWO, instances_generation=1)) == expected
