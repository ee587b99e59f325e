"""`stoker rollout status | history | undo`, and `stoker deploy --dry-run`."""

import json

import pytest

from api.schemas.rollouts import RevisionRead, RolloutPlanRead
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.placement.types import Suggestion, Unplaceable
from stoker.domain.revisions import Revision, RevisionState, RolledBack
from tests.builders import make_spec
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi, make_instance
from tests.fakes.api.values import CREATED_AT

MODEL = "hf:org/repo:Q4_K_M"
DEPLOY = ("deploy", "smol", "--model", MODEL)
RUNNING, STARTING = InstanceState.RUNNING, InstanceState.STARTING
FIRST = Revision(
    deployment="smol",
    generation=1,
    instances_generation=1,
    spec=make_spec(name="smol", model=MODEL),
    state=RevisionState.SUPERSEDED,
    ran=True,
    by="alice",
    created_at=CREATED_AT,
)
SECOND = FIRST.model_copy(
    update={
        "generation": 2,
        "instances_generation": 2,
        "spec": make_spec(name="smol", model=MODEL, replicas=2, options=EngineOptions(slots=1)),
        "state": RevisionState.ROLLED_BACK,
        "ran": False,
        "by": "",
        "reason": "smol-0: no such file",
    }
)


def history(api: FakeApi) -> None:
    """The deployment `smol` with two revisions."""
    api.add(make_instance(RUNNING, instance_id="smol-0", deployment="smol"), name="smol", model=MODEL, generation=3)
    api.revisions = [RevisionRead.of(SECOND, FIRST), RevisionRead.of(FIRST, None)]


def test_a_dry_run_of_a_new_one_tells_where_it_would_go_and_makes_nothing(api: FakeApi, stoker: Stoker) -> None:
    done = stoker(*DEPLOY, "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "Deployment  smol",
        "Would       be created, with 1 instance",
        "First new   on box-1: gpu0 (33 layers, 6 GiB)",
        "            the emptiest GPU that holds it whole",
        "One takes   6 GiB with all layers on a GPU, 5 GiB on a CPU",
        "",
        "Nothing was changed.",
    ]
    assert api.deployments == {}


def test_a_dry_run_of_a_change_tells_what_differs_and_why_it_would_wait(api: FakeApi, stoker: Stoker) -> None:
    stoker(*DEPLOY)
    api.no_room = Unplaceable(summary="no room", rejections=(), suggestions=(Suggestion(text="slots 4 -> 1"),))
    done = stoker(*DEPLOY, "--replicas", "2", "--slots", "8", "--selector", "zone=lab", "--dry-run")
    assert done.stdout.splitlines()[1:7] == [
        "Would       replace 1 instance, one at a time, start 1 instance",
        "Changes     replicas 1 -> 2",
        "            worker_selector (none) -> zone=lab",
        "            options.slots 4 -> 8",
        "First new   would wait: no room",
        "            slots 4 -> 1",
    ]
    assert api.shown("smol").generation == 1
    told = stoker(*DEPLOY, "--slots", "8", "--no-wait").stderr
    assert "smol: the first new instance will wait: no room" in told.splitlines()


def test_a_dry_run_of_what_is_there_already(api: FakeApi, stoker: Stoker) -> None:
    stoker(*DEPLOY)
    assert "change nothing: it is as asked for already" in stoker(*DEPLOY, "--dry-run").stdout
    plan = RolloutPlanRead.model_validate(json.loads(stoker(*DEPLOY, "--dry-run", "-o", "json").stdout))
    assert (plan.action, plan.changes) == ("none", [])


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([(1, RUNNING)], "smol: generation 2 rolls out: 0 of 1 new running, 1 of another generation left"),
        (
            [(1, RUNNING), (2, STARTING)],
            "smol: generation 2 rolls out: 0 of 1 new running, 1 of another generation left",
        ),
        ([(2, RUNNING)], "smol: generation 2 is rolled out: 1 of 1 running"),
    ],
)
def test_status(api: FakeApi, stoker: Stoker, states: list[tuple[int, InstanceState]], text: str) -> None:
    there = [
        make_instance(state, instance_id=f"smol-{number}", deployment="smol", generation=generation)
        for number, (generation, state) in enumerate(states)
    ]
    api.add(*there, name="smol", model=MODEL, generation=2, instances_generation=2)
    done = stoker("rollout", "status", "smol")
    assert (done.exit_code, done.stdout.startswith(text)) == (0, True), done.stdout


def test_waiting_for_what_is_rolled_back_fails_with_the_reason(api: FakeApi, stoker: Stoker) -> None:
    old = make_instance(RUNNING, instance_id="smol-0", deployment="smol")
    deployed = api.add(old, name="smol", model=MODEL, generation=2, instances_generation=2, steps=[(old,)])
    reason = "smol-1: no such file"
    deployed.status = deployed.status.model_copy(
        update={"generation": 2, "rolled_back": RolledBack(generation=2, reason=reason)}
    )
    done = stoker("rollout", "status", "smol", "--wait", "--timeout", "10")
    assert done.exit_code == 1
    assert f"error: smol: generation 2 was rolled back: {reason}" in done.stderr.splitlines()
    assert "hint: what ran before goes on; see `stoker rollout history smol`" in done.stderr.splitlines()


def test_history_tells_who_changed_what_and_what_became_of_it(api: FakeApi, stoker: Stoker) -> None:
    history(api)
    _, first, second = stoker("rollout", "history", "smol").stdout.splitlines()
    assert [first.split()[index] for index in (0, 1, 2, 4, 5)] == ["1", "superseded", "yes", "alice", MODEL]
    assert second.startswith("2           rolled back  no")
    assert second.endswith("  -      replicas 1 -> 2, options.slots 4 -> 1  smol-0: no such file")
    found = json.loads(stoker("rollout", "history", "smol", "-o", "json").stdout)
    assert [one["generation"] for one in found] == [2, 1]


def test_undo_makes_it_wanted_again(api: FakeApi, stoker: Stoker) -> None:
    history(api)
    done = stoker("rollout", "undo", "smol", "--to", "2", "--no-wait")
    assert done.exit_code == 0
    assert api.bodies("POST", "/api/v1/deployments/smol/undo") == [{"generation": 2}]
    assert "smol: wanted as before, now generation 4" in done.stderr
    assert api.shown("smol").options.slots == 1


def test_there_is_no_such_deployment(stoker: Stoker) -> None:
    done = stoker("rollout", "history", "nobody")
    assert done.exit_code == 3
    assert "hint: see `stoker ps`" in done.stderr
