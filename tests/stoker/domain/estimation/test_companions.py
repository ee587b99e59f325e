"""A projector and a draft model beside a model."""

from typing import Any

import pytest

from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.companions import with_draft, with_projector
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import EstimateRefusal, MemoryEstimate
from stoker.domain.gguf import ProjectorProfile
from stoker.domain.units import MIB
from stoker.domain.workers import DeviceKind
from tests.builders import make_profile

PROJECTOR = ProjectorProfile(
    name="Gemma 3",
    weights=800 * MIB,
    padding=MIB,
    patches=4096,
    pixels=896 * 896,
    embedding_length=1152,
    feed_forward=4304,
    heads=16,
)
DRAFT = make_profile(name="Llama 3.2 1B", layers=16, embedding_length=2048, input_weights=150 * MIB)


def estimated(split: tuple[int, ...] = (), options: EngineOptions | None = None, **beside: Any) -> MemoryEstimate:
    outcome = estimate(make_profile(), options or EngineOptions(), split, **beside)
    assert isinstance(outcome, MemoryEstimate), outcome
    return outcome


def test_a_projector_stands_on_the_first_device() -> None:
    alone, beside = estimated((17, 16)), estimated((17, 16), projector=PROJECTOR)
    assert beside.devices[0].weights - alone.devices[0].weights == 801 * MIB
    assert beside.devices[0].compute > alone.devices[0].compute
    assert beside.devices[1:] == alone.devices[1:]
    assert beside.host.compute - alone.host.compute == 3 * 4 * 896 * 896
    assert beside.host.weights == alone.host.weights


def test_without_a_device_it_stands_in_ram() -> None:
    alone, beside = estimated(), estimated(projector=PROJECTOR)
    assert beside.host.weights - alone.host.weights == 800 * MIB
    assert beside.host.compute > alone.host.compute
    assert beside.devices == ()


def test_a_cpu_behind_an_rpc_server_does_not_pad_it() -> None:
    kinds = (DeviceKind.CPU,)
    alone, beside = estimated((33,), kinds=kinds), estimated((33,), kinds=kinds, projector=PROJECTOR)
    assert beside.devices[0].weights - alone.devices[0].weights == 800 * MIB


def test_without_flash_attention_every_head_scores_every_patch() -> None:
    on, off = (
        with_projector(estimated(), PROJECTOR, EngineOptions(flash_attention=flash), on_gpu=False).host.compute
        for flash in (True, False)
    )
    assert off - on >= 4 * 16 * 4096 * 4096 - 4 * 4096 * 3 * 4304 > 0


def test_a_draft_model_has_weights_and_a_cache_of_its_own() -> None:
    alone, beside = estimated((33,)), estimated((33,), draft=DRAFT)
    draft = estimate(DRAFT, EngineOptions(context_length=8192), (17,))
    assert isinstance(draft, MemoryEstimate)
    for field in ("weights", "cache", "compute"):
        first, second = getattr(alone.devices[0], field), getattr(draft.devices[0], field)
        assert getattr(beside.devices[0], field) == first + second > first
    assert beside.devices[0].overhead == alone.devices[0].overhead, "one process, one driver context"
    assert beside.host.weights == alone.host.weights + 150 * MIB
    assert beside.host.overhead == alone.host.overhead
    assert beside == with_draft(alone, draft)


def test_a_draft_model_stands_on_the_first_device_whole() -> None:
    alone, beside = estimated((17, 16)), estimated((17, 16), draft=DRAFT)
    assert beside.devices[0].cache - alone.devices[0].cache == 16 * 128 * MIB
    assert beside.devices[1:] == alone.devices[1:]


def test_a_draft_model_in_ram() -> None:
    alone, beside = estimated(), estimated(draft=DRAFT)
    assert beside.devices == ()
    assert beside.host.cache - alone.host.cache == 16 * 128 * MIB


def test_a_draft_models_caution_is_told() -> None:
    assert estimated((33,), draft=make_profile(caution="it is novel")).caution == "it is novel"


def test_a_draft_model_that_was_trained_for_less_bounds_the_context_that_nobody_named() -> None:
    draft = make_profile(context_length=2048)
    assert estimated((33,), draft=draft) == estimated((33,), EngineOptions(context_length=2048), draft=draft)
    assert estimated((33,), draft=make_profile(context_length=65536)).context_length == 8192


@pytest.mark.parametrize("changed", [{"context_length": 2048}, {"unsupported": "it is a speech model"}])
def test_a_draft_model_that_cannot_run_is_refused(changed: dict[str, Any]) -> None:
    options = EngineOptions(context_length=8192)
    outcome = estimate(make_profile(), options, (33,), draft=make_profile(**changed))
    assert isinstance(outcome, EstimateRefusal)
    assert outcome.message.startswith("the draft model: ")
