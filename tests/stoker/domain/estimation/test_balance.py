"""Layers shared out so that the fullest device is as empty as can be."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.balance import balanced
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import ModelProfile
from stoker.domain.units import MIB
from tests.builders import make_layer, make_profile

OPTIONS = EngineOptions(context_length=4096, slots=1)


def fullest(profile: ModelProfile, split: tuple[int, ...]) -> int:
    found = estimate(profile, OPTIONS, split)
    assert isinstance(found, MemoryEstimate)
    return max(device.total for device in found.devices)


def of_sizes(*mib: int, output: int = 411) -> ModelProfile:
    """A model whose layers have weights of these sizes."""
    layers = tuple(make_layer(weights=size * MIB) for size in mib)
    return make_profile(layers=layers, output_weights=output * MIB)


@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=9),
    st.integers(0, 2000),
    st.integers(1, 6),
)
@settings(deadline=None)
def test_no_other_split_is_better(sizes: list[int], output: int, devices: int) -> None:
    profile = of_sizes(*sizes, output=output)
    layers = profile.block_count + 1
    found = balanced(profile, OPTIONS, devices)
    if devices > layers:
        assert isinstance(found, EstimateRefusal)
        return
    assert isinstance(found, tuple)
    assert (len(found), sum(found), min(found) > 0) == (devices, layers, True)
    every = (
        tuple(b - a for a, b in pairwise((0, *cuts, layers))) for cuts in combinations(range(1, layers), devices - 1)
    )
    assert fullest(profile, found) == min(fullest(profile, split) for split in every)


@pytest.mark.parametrize(("devices", "expected"), [(0, ()), (1, (33,)), (2, (17, 16)), (3, (11, 12, 10))])
def test_llama_8b(devices: int, expected: tuple[int, ...]) -> None:
    assert balanced(make_profile(), OPTIONS, devices) == expected


def test_more_devices_than_llama_cpp_takes() -> None:
    refusal = balanced(make_profile(), OPTIONS, 16)
    assert isinstance(refusal, EstimateRefusal)
    assert "at most 15" in refusal.message


def test_a_heavy_layer_gets_a_device_of_its_own() -> None:
    assert balanced(of_sizes(100, 100, 5000, 100, 100, output=100), OPTIONS, 3) == (2, 1, 3)


def test_layers_that_are_alike_are_shared_evenly() -> None:
    profile = of_sizes(*[200] * 30, output=0)
    split = balanced(profile, OPTIONS, 7)
    assert isinstance(split, tuple)
    assert max(split) - min(split) <= 1


def test_more_devices_than_layers() -> None:
    refusal = balanced(of_sizes(1, 1), OPTIONS, 4)
    assert isinstance(refusal, EstimateRefusal)
    assert refusal.message == "devices is 4: this model has 3 layers (with the output) to share"


def test_what_cannot_be_estimated_is_not_shared_out() -> None:
    refusal = balanced(make_profile(unsupported="it is a drawing"), OPTIONS, 2)
    assert refusal == EstimateRefusal(message="it is a drawing")
