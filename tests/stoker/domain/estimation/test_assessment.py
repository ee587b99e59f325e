"""The whole answer: split, estimate, savings."""

import pytest

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.assessment import Assessment, assess
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import EstimateRefusal
from tests.builders import make_profile

PROFILE = make_profile()
OPTIONS = EngineOptions(slots=1)


def answer(**where: object) -> Assessment:
    outcome = assess(PROFILE, OPTIONS, **where)  # type: ignore[arg-type]
    assert isinstance(outcome, Assessment)
    return outcome


def test_one_device_unless_said_otherwise() -> None:
    assert answer().split == (33,)
    assert answer().estimate == estimate(PROFILE, OPTIONS, (33,))
    assert answer().savings


def test_the_cpu_alone() -> None:
    assert answer(devices=0).split == ()
    assert answer(devices=0).estimate.devices == ()


def test_a_split_is_taken_as_it_is() -> None:
    assert [device.layers for device in answer(split=[30, 1, 2]).estimate.devices] == [30, 1, 2]


def test_devices_share() -> None:
    assert sum(answer(devices=4).split) == 33
    assert len(answer(devices=4).estimate.devices) == 4


@pytest.mark.parametrize("split", [(16, 16), (33, 1), (1,)])
def test_a_split_of_another_number_of_layers(split: tuple[int, ...]) -> None:
    refusal = assess(PROFILE, OPTIONS, split=split)
    assert isinstance(refusal, EstimateRefusal)
    written = ",".join(map(str, split))
    assert refusal.message == (
        f"split {written} places {sum(split)} layers, and the model has 33: 32 and the output layer, counted as one"
    )


def test_what_cannot_run_is_refused() -> None:
    refusal = assess(PROFILE, EngineOptions(context_length=1_000_000))
    assert isinstance(refusal, EstimateRefusal)
    assert "1000000" in refusal.message
