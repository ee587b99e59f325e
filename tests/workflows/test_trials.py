"""What a change, and its failure, make of a deployment's state."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.deployments import scaling_fault
from stoker.domain.revisions import RolledBack
from stoker.domain.rollback import MOST_WAITING_SECONDS, ROLLOUT_TIMEOUT_SECONDS
from stoker.domain.rollout import Replica, ReplicaPhase
from tests.builders import make_files, make_profile, make_spec
from workflows.replicas import with_news, without
from workflows.trials import (
    after_change,
    failure_of,
    is_wanted_already,
    known_model,
    rolled_back,
    timed,
    trial_ends,
    with_room_made,
)
from workflows.types import ApplyInput, DeploymentState, InstanceChanged, Wanted

RUNNING, STARTING, PENDING, FAILED = (
    ReplicaPhase.RUNNING,
    ReplicaPhase.STARTING,
    ReplicaPhase.PENDING,
    ReplicaPhase.FAILED,
)


def wanted(**fields: Any) -> Wanted:
    spec = make_spec(**fields)
    return Wanted(spec=spec, profile=make_profile(), files=make_files(spec.model))


def change(state: DeploymentState, **fields: Any) -> DeploymentState:
    """The next change, by `alice`."""
    to = wanted(**fields)
    return after_change(state, to, ApplyInput(spec=to.spec, by="alice"))


def news(state: DeploymentState, phase: ReplicaPhase, *, generation: int, **fields: Any) -> DeploymentState:
    """An instance of that generation says where it is; it is there from then on."""
    name = f"i{generation}"
    if name not in [one.instance_id for one in state.replicas]:
        replica = Replica(instance_id=name, generation=generation)
        state = state.model_copy(update={"replicas": (*state.replicas, replica)})
    return with_news(state, InstanceChanged(instance_id=name, generation=generation, phase=phase, **fields))


FIRST = change(DeploymentState())
RAN = news(FIRST, RUNNING, generation=1)
ROLLS = change(RAN, options={"slots": 1})


def test_the_first_generation_is_not_on_trial() -> None:
    assert (FIRST.generation, FIRST.instances_generation, FIRST.trial, FIRST.by) == (1, 1, None, "alice")
    failed = news(FIRST, FAILED, generation=1, failures=9)
    assert failure_of(failed, 1e9) == ""
    assert change(failed, options={"slots": 1}).trial is None, "nothing ran that could be wanted again"


def test_a_change_that_rolls_is_on_trial_until_one_of_its_instances_runs() -> None:
    assert RAN.ran == 1
    assert ROLLS.trial is not None
    assert (ROLLS.trial.previous, ROLLS.trial.previous_instances_generation) == (RAN.wanted, 1)
    assert news(ROLLS, RUNNING, generation=1).trial is not None, "an old one says nothing of the new ones"
    ran = news(ROLLS, RUNNING, generation=2)
    assert (ran.trial, ran.ran) == (None, 2)
    assert failure_of(news(ran, FAILED, generation=2), 0) == ""


def test_states_that_do_not_remember_what_ran_see_it_by_what_runs() -> None:
    assert change(RAN.model_copy(update={"ran": 0}), options={"slots": 1}).trial is not None


def test_what_fails_is_rolled_back_to_what_ran() -> None:
    failed = news(ROLLS, FAILED, generation=2, message="no such file")
    assert failure_of(failed, 0) == "i2: no such file"
    assert failure_of(failed.model_copy(update={"deleting": True}), 0) == ""
    assert failed.trial is not None
    back = rolled_back(failed, failed.trial, "i2: no such file")
    assert (back.wanted, back.generation, back.instances_generation, back.trial) == (RAN.wanted, 3, 1, None)
    assert back.rolled_back == RolledBack(generation=2, reason="i2: no such file")
    assert back.reason == "generation 2 was rolled back: i2: no such file"
    assert back.by == ""
    again = change(back, options={"slots": 1})
    assert (again.generation, again.instances_generation, again.rolled_back) == (4, 4, None)
    assert again.trial is not None, "what is tried again can fail again"


def test_a_second_change_on_trial_goes_back_past_the_first() -> None:
    second = change(news(ROLLS, STARTING, generation=2, failures=2), options={"slots": 2})
    assert second.trial is not None
    assert (second.trial.previous, second.trial.previous_instances_generation) == (RAN.wanted, 1)
    assert failure_of(news(second, FAILED, generation=2), 0) == "", "the first is not wanted any more"


def test_wanting_what_ran_keeps_its_instances() -> None:
    again = change(ROLLS, replicas=3)
    assert again.wanted is not None
    assert (again.wanted.spec.replicas, again.generation, again.instances_generation) == (3, 3, 1)
    assert again.trial is None


def test_a_change_that_needs_no_new_instances_outlasts_a_roll_back() -> None:
    scaled = change(ROLLS, options={"slots": 1}, replicas=3)
    assert (scaled.generation, scaled.instances_generation) == (3, 2)
    assert scaled.trial is not None
    assert scaled.trial.previous.spec == make_spec(replicas=3)


SCALINGS = st.fixed_dictionaries(
    {
        "replicas": st.integers(0, 5),
        "min_replicas": st.none() | st.integers(0, 5),
        "max_replicas": st.none() | st.integers(1, 5),
        "idle_timeout": st.sampled_from([60, 600]),
        "priority": st.integers(-1, 1),
        "queue": st.sampled_from([0, 128]),
    }
).filter(lambda fields: not scaling_fault(fields["min_replicas"], fields["max_replicas"]))


@given(ran=SCALINGS, on_trial=SCALINGS, meanwhile=SCALINGS)
def test_whatever_is_changed_meanwhile_what_is_wanted_again_can_be_read(
    ran: dict[str, Any], on_trial: dict[str, Any], meanwhile: dict[str, Any]
) -> None:
    state = news(change(DeploymentState(), **ran), RUNNING, generation=1)
    other = {"options": {"slots": 1}}
    state = change(change(state, **on_trial, **other), **meanwhile, **other)
    assert DeploymentState.model_validate_json(state.model_dump_json()) == state
    assert state.trial is not None
    back = rolled_back(state, state.trial, "it failed")
    assert DeploymentState.model_validate_json(back.model_dump_json()) == back
    assert back.wanted is not None
    for fields in (["replicas", "min_replicas", "max_replicas"], ["idle_timeout"], ["priority"], ["queue"]):
        if any(on_trial[field] != meanwhile[field] for field in fields):
            assert {field: getattr(back.wanted.spec, field) for field in fields} == {f: meanwhile[f] for f in fields}


def test_what_older_runs_decided_stays_as_it_was() -> None:
    state = news(change(DeploymentState(), min_replicas=0, max_replicas=4), RUNNING, generation=1)
    state = change(state, min_replicas=0, max_replicas=8, options={"slots": 1})
    to = wanted(min_replicas=2, max_replicas=8, options={"slots": 1})
    for together, most in ((False, 4), (True, 8)):
        after = after_change(state, to, ApplyInput(spec=to.spec), together=together)
        assert after.trial is not None
        assert (after.trial.previous.spec.min_replicas, after.trial.previous.spec.max_replicas) == (2, most)


@pytest.mark.parametrize(
    ("model", "known"),
    [("hf:org/other", True), (str(make_spec().model), True), ("hf:org/third", True), ("hf:org/fourth", False)],
)
def test_what_was_read_of_a_model_is_not_read_again(model: str, known: bool) -> None:
    state = change(RAN, model="hf:org/other")
    told = ApplyInput(spec=make_spec(model=model, replicas=7), known=wanted(model="hf:org/third"))
    found = known_model(state, told)
    assert (found is not None) is known
    assert found is None or (found.spec, found.files.source) == (told.spec, told.spec.model)


def test_the_files_that_are_asked_for_are_those_that_are_given() -> None:
    """An undo: the spec is the same, and the hub's branch has moved on meanwhile."""
    assert RAN.wanted is not None
    first = RAN.wanted
    moved = first.model_copy(update={"files": first.files.model_copy(update={"revision": "b" * 40})})
    state = RAN.model_copy(update={"wanted": moved})
    undo = ApplyInput(spec=first.spec, known=first)
    assert not is_wanted_already(state, undo, first.files)
    assert is_wanted_already(state, undo, moved.files)
    assert is_wanted_already(state, ApplyInput(spec=first.spec), None)
    assert known_model(state, undo) == first
    assert known_model(state, undo, known_first=False) == moved
    back = after_change(state, first, undo, files=first.files)
    assert (back.generation, back.instances_generation, back.wanted) == (2, 2, first)
    assert back.trial is not None
    again = after_change(back, moved, ApplyInput(spec=first.spec, known=moved), files=moved.files)
    assert (again.generation, again.instances_generation, again.trial, again.wanted) == (3, 1, None, moved)


def test_time_passes_only_while_an_instance_does_not_wait_for_room() -> None:
    assert timed(RAN, 100.0) == RAN
    assert (timed(ROLLS, 100.0), trial_ends(ROLLS)) == (ROLLS, float("inf"))
    starts = timed(news(ROLLS, STARTING, generation=2), 100.0)
    assert trial_ends(starts) == 100.0 + ROLLOUT_TIMEOUT_SECONDS
    assert timed(starts, 150.0) == starts
    waits = timed(news(starts, PENDING, generation=2), 400.0)
    assert trial_ends(waits) == float("inf")
    assert failure_of(waits, 1e9) == ""
    goes_on = timed(news(waits, STARTING, generation=2), 5000.0)
    ends = 5000.0 + ROLLOUT_TIMEOUT_SECONDS - 300.0
    assert trial_ends(goes_on) == ends
    assert failure_of(goes_on, ends - 1) == ""
    assert failure_of(goes_on, ends) == "none of its instances ran within 30 minutes"


def test_once_an_old_one_made_room_the_wait_for_room_has_an_end() -> None:
    waits = news(ROLLS, PENDING, generation=2)
    assert trial_ends(timed(without(waits, "i1"), 100.0)) == float("inf"), "nobody made room: it hurts nobody"
    made = timed(with_room_made(waits), 100.0)
    assert trial_ends(made) == float("inf"), "the old one answers still"
    alone = timed(without(made, "i1"), 200.0)
    assert trial_ends(alone) == 200.0 + MOST_WAITING_SECONDS
    looks = timed(news(alone, STARTING, generation=2), 300.0)
    assert failure_of(looks, 300.0 + MOST_WAITING_SECONDS) == "", "it may have found room"
    again = timed(news(looks, PENDING, generation=2), 310.0)
    ends = 310.0 + MOST_WAITING_SECONDS - 100.0
    assert (trial_ends(again), failure_of(again, ends - 1)) == (ends, "")
    assert failure_of(again, ends) == "it found no room within 5 minutes, though an old instance made some"
    second = change(again, options={"slots": 2})
    assert second.trial is not None
    assert second.trial.made_room, "the old one is gone all the same"
    assert with_room_made(RAN) == RAN
