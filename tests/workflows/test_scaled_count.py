"""What a deployment remembers of demand, step by step."""

from typing import Any

import pytest

from stoker.domain.deployments import DeploymentSpec
from tests.builders import make_files, make_profile, make_spec
from workflows.scaled_count import is_row_behind, scaled_under, to_scale, to_wake
from workflows.types import DeploymentState, ScaleRequest, Wanted


def spec(**fields: Any) -> DeploymentSpec:
    """Between none and four, and it begins with two."""
    return make_spec(**({"replicas": 2, "min_replicas": 0, "max_replicas": 4} | fields))


def state(scaled: int | None, **fields: Any) -> DeploymentState:
    """Demand asks for `scaled`."""
    return DeploymentState(
        wanted=Wanted(spec=spec(**fields), profile=make_profile(), files=make_files()), scaled=scaled
    )


FIXED = {"min_replicas": None, "max_replicas": None}


@pytest.mark.parametrize(
    ("before", "replicas", "seen", "after"),
    [
        (None, 3, 2, 3),
        (None, 0, 2, 0),
        (1, 3, 0, 3),  # more is never too late
        (1, 9, 1, 4),
        (3, 1, 3, 1),
        (3, 1, 2, 3),  # decided before there were three
        (1, 0, 2, 1),
        (3, 3, 1, 3),
    ],
)
def test_scaling(before: int | None, replicas: int, seen: int, after: int | None) -> None:
    assert to_scale(state(before), ScaleRequest(replicas=replicas, seen=seen)).scaled == after


@pytest.mark.parametrize(("before", "seen", "behind"), [(None, 2, False), (None, 0, True), (0, 1, True), (9, 4, False)])
def test_whether_the_row_shows_another_count(before: int | None, seen: int, behind: bool) -> None:
    assert is_row_behind(state(before), ScaleRequest(replicas=1, seen=seen)) is behind


@pytest.mark.parametrize(("before", "after"), [(None, 2), (0, 1), (1, 1), (3, 3)])
def test_waking(before: int | None, after: int) -> None:
    assert to_wake(state(before)).scaled == after


def test_where_demand_has_no_say_nothing_changes() -> None:
    fixed, empty = state(None, **FIXED), DeploymentState()
    for one in (fixed, empty):
        assert to_wake(one) == one
        assert not is_row_behind(one, ScaleRequest(replicas=0, seen=2))
        assert to_scale(one, ScaleRequest(replicas=0, seen=2)) == one


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({"idle_timeout": 60}, 3),
        ({"max_replicas": 2}, 3),  # what it comes to is for `wanted_replicas` to say
        ({"replicas": 1}, None),
        (FIXED, None),
    ],
)
def test_a_changed_spec_keeps_it_unless_it_says_how_many(change: dict[str, Any], after: int | None) -> None:
    assert scaled_under(spec(**change), state(3)) == after


def test_the_first_spec_begins_with_its_replicas() -> None:
    assert scaled_under(spec(), DeploymentState()) is None
    assert scaled_under(spec(), state(None, **FIXED)) is None
