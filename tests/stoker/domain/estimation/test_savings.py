"""What would change an estimate most."""

import pytest

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.savings import Saving, savings, total
from stoker.domain.estimation.types import MemoryEstimate
from tests.builders import make_profile

PROFILE = make_profile()


def found(options: EngineOptions, split: tuple[int, ...] = whole(PROFILE)) -> tuple[Saving, ...]:
    estimated = estimate(PROFILE, options, split)
    assert isinstance(estimated, MemoryEstimate)
    return savings(PROFILE, options, estimated, split)


@pytest.mark.parametrize("split", [(), (33,), (17, 16)])
@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(),
        EngineOptions(context_length=131_072, slots=1),
        EngineOptions(flash_attention=False),
        EngineOptions(cache_type=CacheType.F32, cache_type_v=CacheType.Q8_0),
        EngineOptions(kv_unified=True, micro_batch=64),
    ],
)
def test_each_saving_is_the_difference_that_its_option_makes(options: EngineOptions, split: tuple[int, ...]) -> None:
    before = estimate(PROFILE, options, split)
    assert isinstance(before, MemoryEstimate)
    for saving in found(options, split):
        changed = EngineOptions.model_validate({**options.model_dump(), saving.option: saving.value})
        after = estimate(PROFILE, changed, split)
        assert isinstance(after, MemoryEstimate)
        assert total(before) - total(after) == saving.saved > 0


def test_the_largest_comes_first() -> None:
    saved = [saving.saved for saving in found(EngineOptions())]
    assert saved == sorted(saved, reverse=True)
    assert len(saved) >= 4


def test_in_words_and_by_name() -> None:
    told = {(saving.change, saving.option, saving.value) for saving in found(EngineOptions(slots=4))}
    assert {
        ("half the context", "context_length", 4096),
        ("one slot less", "slots", 3),
        ("a q8_0 KV cache", "cache_type", "q8_0"),
    } <= told


def test_keys_and_values_are_told_apart_where_they_differ() -> None:
    options = EngineOptions(cache_type=CacheType.F16, cache_type_v=CacheType.BF16)
    told = {(saving.change, saving.option) for saving in found(options)}
    assert {("q8_0 keys", "cache_type"), ("q8_0 values", "cache_type_v")} <= told
    assert not any("KV cache" in change for change, _ in told)


def test_what_saves_nothing_is_left_out() -> None:
    options = EngineOptions(context_length=128, slots=1, cache_type=CacheType.Q4_0, micro_batch=32, batch=32)
    assert found(options) == ()


def test_flash_attention_is_named_where_it_is_off() -> None:
    assert ("flash attention", True) in {(s.change, s.value) for s in found(EngineOptions(flash_attention=False))}
    assert "flash_attention" not in {s.option for s in found(EngineOptions())}
