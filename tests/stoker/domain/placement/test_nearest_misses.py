"""Each tier's outcome names what is nearest to being enough there, and never says that nothing is short.

Beside its layers a GPU has 1 GiB of overhead and some MiB to compute; lending GPUs takes 576 MiB of RAM.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from stoker.domain.models import ModelSource
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import place
from stoker.domain.placement.types import PlacementRequest, Rule, Tier, TierOutcome, Unplaceable
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Worker
from tests.builders import make_files
from tests.stoker.domain.placement.fleets import NATIVE, Case, ask, cases, cpu, fleet_of, gpu, host, sized_profile

TWO_GIB = sized_profile([2 * GIB] * 39, output=2 * GIB)
"""40 layers with the output."""

MEMORY = (Rule.MEMORY, Rule.HOST_MEMORY)


def refused(request: PlacementRequest, *workers: Worker) -> Unplaceable:
    outcome = place(fleet_of(*workers), request)
    assert isinstance(outcome, Unplaceable), outcome
    return outcome


def told(outcome: Unplaceable) -> dict[Tier, TierOutcome]:
    return {one.tier: one for one in outcome.tiers}


def test_the_ram_of_the_main_server_is_short_where_the_layers_fit() -> None:
    """`tiny` can hold no layer; of those that do, the nearest lacks about 896 - 700 MiB."""
    outcome = refused(
        ask(sized_profile([4 * GIB] * 9, output=4 * GIB)),
        host("tiny", 4 * GIB, ram=2048 * GIB),
        host("a", 24 * GIB, ram=700 * MIB),
        host("b", 24 * GIB, ram=690 * MIB),
    )
    several = told(outcome)[Tier.SEVERAL_WORKERS]
    assert several.rule is Rule.HOST_MEMORY
    assert 196 * MIB < several.short < 197 * MIB
    assert "; a has 700 MiB allocatable: " in several.message


def test_the_main_server_must_hold_a_layer() -> None:
    """It has the file, and none of the others; a layer of 4 GiB is more than its GPU has."""
    request = ask(sized_profile([4 * GIB] * 9, output=4 * GIB))
    source = ModelSource.parse("file:/models/m.gguf")
    request = request.model_copy(update={"files": make_files(source, found_on=("tiny",))})
    outcome = refused(request, host("tiny", 4 * GIB), host("a", 24 * GIB), host("b", 24 * GIB))
    several = told(outcome)[Tier.SEVERAL_WORKERS]
    assert several.rule is Rule.MEMORY
    assert GIB < several.short < GIB + 64 * MIB
    assert "the main server must hold a layer" in several.message


@pytest.mark.parametrize("spec", [{}, {"gpu_layers": 5}, {"tensor_split": (5,)}])
def test_a_worker_that_offers_no_cpu_computes_nothing(spec: dict[str, Any]) -> None:
    bare = [host(name, 4 * GIB, 4 * GIB, ram=None) for name in ("w0", "w1")]
    outcome = told(refused(ask(TWO_GIB, cpu_offload=True, **spec), *bare))
    for tier in (Tier.PART_ON_CPU, Tier.PART_ON_CPU_SEVERAL_WORKERS):
        assert outcome[tier].rule is Rule.NO_DEVICES
        assert "offers its CPU" in outcome[tier].message
    assert not any("TiB" in one.message for one in outcome.values())


def test_layers_that_were_asked_for_and_do_not_fit() -> None:
    """Four GPUs of 2.1 GiB hold one layer of 1 GiB each, and ten are asked for."""
    request = ask(sized_profile([GIB] * 10, output=GIB), gpu_layers=10)
    outcome = refused(request, host("w", *[int(2.1 * GIB)] * 4))
    part = told(outcome)[Tier.PART_ON_CPU]
    assert (part.rule, part.layers, part.of_layers) == (Rule.MEMORY, 4, 10)
    assert 7 * GIB < part.short < 7 * GIB + 64 * MIB  # six layers and the overhead
    assert "a device with 7.0" in part.message or "a device with 7 " in part.message
    assert {one.device for one in outcome.rejections} == {"gpu0", "gpu1", "gpu2", "gpu3"}
    assert outcome.lacks_room
    assert outcome.summary.startswith("Needs 10 layers on devices; 4 fit on the GPUs of w: ")


def test_layers_that_were_asked_for_and_whose_others_lack_ram() -> None:
    outcome = refused(ask(TWO_GIB, gpu_layers=5), host("w", 24 * GIB, ram=64 * GIB))
    part = told(outcome)[Tier.PART_ON_CPU]
    assert (part.rule, part.layers) == (Rule.HOST_MEMORY, 5)
    assert 6 * GIB < part.short < 8 * GIB  # 35 layers of 2 GiB, and the server
    assert outcome.lacks_room
    assert [one.rule for one in outcome.rejections] == [Rule.HOST_MEMORY]


def test_a_part_of_a_split_that_fits_nowhere() -> None:
    """24 and 64 GiB hold 11 and 31 layers."""
    outcome = refused(ask(TWO_GIB, tensor_split=(32, 8)), host("a", 24 * GIB, 64 * GIB))
    one = told(outcome)[Tier.ONE_WORKER]
    assert (one.rule, one.layers, one.of_layers) == (Rule.MEMORY, 8, 40)
    assert one.message.startswith("the part of 32 layers needs a device with 65 GiB; the largest that is left, a/gpu1,")
    assert GIB < one.short < GIB + 64 * MIB
    assert outcome.lacks_room


def test_a_split_of_more_parts_than_there_are_devices() -> None:
    outcome = refused(ask(TWO_GIB, tensor_split=(20, 10, 10)), host("a", 64 * GIB, 64 * GIB))
    one = told(outcome)[Tier.ONE_WORKER]
    assert one.message.startswith("the part of 10 layers needs a device with 21 GiB, and the GPUs of a are 2")
    assert outcome.lacks_room


def test_a_split_of_more_layers_than_the_model_has() -> None:
    outcome = refused(ask(TWO_GIB, tensor_split=(30, 20)), host("a", 640 * GIB, 640 * GIB))
    assert [one.rule for one in outcome.tiers] == [Rule.UNSUPPORTED]
    assert outcome.summary == (
        "Nothing may take it: tensor_split has 50 layers, and the model has 40 layers with the output."
    )
    assert not outcome.lacks_room


def test_cpus_of_several_workers_are_short_by_layers() -> None:
    """32 GiB hold 15 layers beside the server; 576 MiB hold none, and the huge one is of another engine."""
    other = NATIVE.model_copy(update={"version": "b1"})
    outcome = refused(
        ask(TWO_GIB, cpu_offload=True),
        host("a", ram=32 * GIB),
        host("b", ram=576 * MIB),
        host("c", ram=512 * MIB, engine=other),
    )
    several = told(outcome)[Tier.CPU_SEVERAL_WORKERS]
    assert (several.rule, several.layers, several.of_layers) == (Rule.MEMORY, 15, 40)
    assert 50 * GIB < several.short < 51 * GIB  # 25 layers
    assert outcome.lacks_room


def test_one_worker_and_several_are_said_rightly() -> None:
    outcome = refused(ask(TWO_GIB), host("a", 24 * GIB), host("b", ram=64 * GIB))
    several = told(outcome)[Tier.SEVERAL_WORKERS].message
    assert several.startswith("needs 40 layers on devices; 11 fit on the GPUs of a: ")
    both = told(refused(ask(TWO_GIB), host("a", 24 * GIB), host("b", 24 * GIB)))[Tier.SEVERAL_WORKERS].message
    assert both.startswith("needs 40 layers on devices; 22 fit on the GPUs of 2 workers: ")


def test_where_lending_lacks_ram() -> None:
    workers = [host(name, 48 * GIB, ram=500 * MIB) for name in ("a", "b")]
    several = told(refused(ask(TWO_GIB), *workers))[Tier.SEVERAL_WORKERS]
    assert (several.rule, several.short) == (Rule.HOST_MEMORY, 76 * MIB)


def test_unified_memory_is_counted_once_where_a_part_stays_on_the_cpu() -> None:
    """80 GiB of layers do not fit into 64 GiB, 48 of which the GPU may have."""
    mac = host("mac", devices=(gpu(48 * GIB, unified=True), cpu(64 * GIB)))
    part = told(refused(ask(TWO_GIB, cpu_offload=True), mac))[Tier.PART_ON_CPU]
    assert (part.rule, part.layers) == (Rule.HOST_MEMORY, 23)
    assert 17 * GIB < part.short < 19 * GIB


def test_at_most_five_engines_are_named() -> None:
    workers = [
        host(f"w{number}", 24 * GIB, engine=NATIVE.model_copy(update={"version": f"b{number}"}))
        for number in range(100, 350)
    ]
    outcome = refused(ask(TWO_GIB), *workers)
    several = told(outcome)[Tier.SEVERAL_WORKERS]
    assert several.rule is Rule.ENGINE_MISMATCH
    assert several.message.endswith("b103 (native, RPC 7.0.0), b104 (native, RPC 7.0.0) and 245 others")
    assert len(outcome.model_dump_json()) < 60_000


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases())
def test_whatever_lacks_memory_says_how_much(case: Case) -> None:
    outcome = place(Fleet.of(case.snapshot), case.request)
    if isinstance(outcome, Unplaceable):
        assert all(one.short > 0 for one in outcome.tiers if one.rule in MEMORY), outcome.tiers
        assert all(one.short > 0 for one in outcome.rejections if one.rule in MEMORY), outcome.rejections
        named = outcome.rejections and outcome.rejections[0].rule is Rule.NO_SUCH_DEVICE
        assert outcome.lacks_room or named or not any(one.rule in MEMORY for one in outcome.tiers)
        assert "TiB" not in "".join(one.message for one in outcome.tiers)
