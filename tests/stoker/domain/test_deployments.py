"""Deployment specs, and the legal lives of instances."""

import re

import pytest
from pydantic import ValidationError

from stoker.domain.deployments import (
    TRANSITIONS,
    DeploymentSpec,
    EngineOptions,
    InstanceState,
    Strategy,
    is_transition_allowed,
)
from tests.builders import make_spec


@pytest.mark.parametrize("name", ["a", "smol", "smol-2", "a" * 48])
def test_good_names(name: str) -> None:
    assert make_spec(name=name).name == name


@pytest.mark.parametrize("name", ["", "Smol", "-a", "a-", "a.b", "a_b", "a" * 49, "a/b", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        make_spec(name=name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": -1},
        {"priority": 1001},
        {"queue": -1},
        {"queue": 100_001},
        {"worker_selector": {"a b": "c"}},
        {"options": {"slots": 0}},
        {"options": {"cache_type": "q6_k"}},
        {"options": {"cache_type_v": "int8"}},
        {"options": {"micro_batch": 8193}},
    ],
)
def test_bad_values(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DeploymentSpec.model_validate({**make_spec().model_dump(), **wrong})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"replicas": 7}, True),
        ({"priority": 7}, True),
        ({"queue": 0}, True),
        ({"min_replicas": 0, "max_replicas": 3, "idle_timeout": 60}, True),
        ({"queue": 7, "strategy": Strategy.BINPACK}, False),
        ({"strategy": Strategy.BINPACK}, False),
        ({"options": EngineOptions(slots=1)}, False),
        ({"worker_selector": {"rack": "1"}}, False),
    ],
)
def test_which_changes_need_new_instances(change: dict[str, object], same: bool) -> None:
    spec = make_spec()
    assert spec.same_instances(spec.model_copy(update=change)) is same


def test_every_state_has_its_transitions_and_can_be_left_by_a_stop() -> None:
    assert set(TRANSITIONS) == set(InstanceState)
    ends = {InstanceState.STOPPING, InstanceState.STOPPED}
    for state in set(InstanceState) - ends:
        assert is_transition_allowed(state, InstanceState.STOPPING), state


def test_every_state_is_reached_from_placing() -> None:
    reached, todo = set(), [InstanceState.PLACING]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += TRANSITIONS[state]
    assert reached == set(InstanceState)


def test_staying_is_allowed_and_going_back_is_not() -> None:
    assert is_transition_allowed(InstanceState.RUNNING, InstanceState.RUNNING)
    assert not is_transition_allowed(InstanceState.RUNNING, InstanceState.STARTING)
    assert not is_transition_allowed(InstanceState.STOPPED, InstanceState.PLACING)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tensor_split": (1,) * 16}, "tensor_split: it names 16 devices, and llama.cpp takes at most 15"),
        ({"tensor_split": (3, 4), "gpu_layers": 8}, "tensor_split: its sum is 7 and gpu_layers is 8: make them equal"),
        ({"tensor_split": (3, 4), "gpu_layers": 0}, "tensor_split: its sum is 7 and gpu_layers is 0"),
        ({"tensor_split": (3, 4), "devices": (("a", "gpu0"),)}, "tensor_split: it is for 2 devices"),
        ({"tensor_split": (3, 0)}, "tensor_split"),
        ({"overcommit": True}, "overcommit: only chosen devices are overcommitted: name them in devices"),
        ({"min_compute_capability": "8"}, "min_compute_capability"),
        ({"min_compute_capability": "\N{ARABIC-INDIC DIGIT EIGHT}.0"}, "min_compute_capability"),
    ],
)
def test_what_does_not_agree(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        make_spec(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"tensor_split": (1,) * 15},
        {"tensor_split": (3, 4), "gpu_layers": 7},
        {"tensor_split": (3, 4), "devices": (("a", "gpu0"), ("b", "gpu0"), ("b", "cpu"))},
        {"overcommit": True, "devices": (("a", "gpu0"),)},
        {"gpu_layers": 0},
        {"min_compute_capability": "8.0"},
    ],
)
def test_what_agrees(right: dict[str, object]) -> None:
    spec = make_spec(**right)
    assert DeploymentSpec.model_validate_json(spec.model_dump_json()) == spec
