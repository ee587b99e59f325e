"""Models of which a part stays on the CPU: how many layers go to GPUs, on whose, and what the administrator says of it.

Beside its layers a GPU has 1 GiB of overhead and some MiB to compute; a layer here is 2 GiB, and so is the output.
"""

from typing import Any

import pytest

from stoker.domain.placement.place import place
from stoker.domain.placement.types import Placement, PlacementRequest, Rule, Tier, Unplaceable
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind, Worker
from tests.stoker.domain.placement.audit import audit
from tests.stoker.domain.placement.fleets import ask, cpu, fleet_of, gpu, host, sized_profile

PROFILE = sized_profile([2 * GIB] * 39, output=2 * GIB)
"""40 layers with the output: 80 GiB."""


def request(**spec: Any) -> PlacementRequest:
    return ask(PROFILE, **({"cpu_offload": True} | spec))


def placed(asked: PlacementRequest, *workers: Worker) -> Placement:
    fleet = fleet_of(*workers)
    outcome = place(fleet, asked)
    assert isinstance(outcome, Placement), outcome
    audit(fleet.snapshot(), asked, outcome)
    return outcome


def refused(asked: PlacementRequest, *workers: Worker) -> Unplaceable:
    outcome = place(fleet_of(*workers), asked)
    assert isinstance(outcome, Unplaceable), outcome
    return outcome


def offloaded(placement: Placement) -> dict[str, int]:
    return {f"{placement.worker_of(share)}/{share.device}": share.layers for share in placement.offloaded}


def test_nothing_goes_to_the_cpu_unasked() -> None:
    outcome = refused(request(cpu_offload=False), host("a", 24 * GIB))
    (suggested,) = [one for one in outcome.suggestions if one.changes == {"cpu_offload": True}]
    assert "11 of 40 layers" in suggested.text
    assert {tier.tier: tier.rule for tier in outcome.tiers}[Tier.PART_ON_CPU] is Rule.CPU_NOT_ALLOWED


def test_as_many_layers_as_fit_go_to_the_gpus() -> None:
    outcome = placed(request(), host("a", 24 * GIB, 10 * GIB))
    assert outcome.tier is Tier.PART_ON_CPU
    assert sum(offloaded(outcome).values()) == 11 + 4
    (ram,) = [share for share in outcome.shares if share.kind is DeviceKind.CPU]
    assert (ram.layers, ram.claim) == (0, outcome.estimate.host.total)
    assert outcome.estimate.host.weights == 25 * 2 * GIB


def test_the_worker_with_the_most_layers_on_gpus_is_taken() -> None:
    """Not the one with the largest GPU, nor the one with the most GPU memory, which layers divide ill."""
    outcome = placed(
        request(), host("large", 24 * GIB), host("sliced", *[5 * GIB - MIB] * 6), host("best", 14 * GIB, 14 * GIB)
    )
    assert outcome.worker == "best"
    assert sum(offloaded(outcome).values()) == 12


def test_no_more_devices_than_the_most_layers_need() -> None:
    """2.5 GiB hold no layer."""
    outcome = placed(request(), host("a", 24 * GIB, 5 * GIB // 2, 5 * GIB // 2))
    assert offloaded(outcome) == {"a/gpu0": 11}


def test_a_worker_whose_ram_cannot_hold_the_rest_hides_no_other() -> None:
    """`a` has 2 x 11 layers on GPUs, and no RAM for the other 18."""
    outcome = placed(request(), host("a", 24 * GIB, 24 * GIB, ram=20 * GIB), host("b", 8 * GIB, ram=80 * GIB))
    assert (outcome.tier, outcome.worker) == (Tier.PART_ON_CPU, "b")
    assert offloaded(outcome) == {"b/gpu0": 3}


def test_one_worker_comes_before_several() -> None:
    """Together they would hold 22 layers."""
    outcome = placed(request(), host("a", 24 * GIB), host("b", 24 * GIB))
    assert outcome.tier is Tier.PART_ON_CPU
    assert len(outcome.workers) == 1


def test_gpus_of_several_workers_where_no_ram_holds_the_rest_of_one() -> None:
    """30 GiB of RAM hold 14 layers: 26 must be on GPUs, 11 on each of 24 GiB."""
    workers = [host(name, 24 * GIB, ram=30 * GIB) for name in ("a", "b", "c")]
    outcome = placed(request(), *workers)
    assert outcome.tier is Tier.PART_ON_CPU_SEVERAL_WORKERS
    assert sorted(offloaded(outcome).values()) == [11, 11, 11]
    refused(request(distributed=False), *workers)
    assert placed(request(), *workers[:2]).tier is Tier.CPU_SEVERAL_WORKERS, "22 layers are too few"


def test_the_main_servers_cpu_may_be_all_that_it_has() -> None:
    """`ram` has no GPU: it holds the first layers on its CPU, which the others' RAM could not."""
    outcome = placed(request(), host("ram", ram=128 * GIB), host("a", 24 * GIB, ram=2 * GIB))
    assert (outcome.tier, outcome.worker) == (Tier.PART_ON_CPU_SEVERAL_WORKERS, "ram")
    assert offloaded(outcome) == {"a/gpu0": 11}
    (lent,) = [share for share in outcome.shares if share.worker == "a" and not share.layers]
    assert lent.claim == 576 * MIB


def test_the_cpu_alone_comes_after_all_gpus() -> None:
    assert placed(request(), host("ram", ram=128 * GIB), host("a", 2 * GIB)).tier is Tier.CPU
    alone = placed(request(cpu_offload=False), host("ram", ram=128 * GIB))
    assert (alone.tier, offloaded(alone)) == (Tier.CPU, {})


def test_cpus_of_several_workers() -> None:
    """60 GiB of RAM hold 29 layers at most, beside the process: two workers are needed, and three are not."""
    outcome = placed(request(), *(host(name, ram=60 * GIB) for name in ("a", "b", "c")))
    assert outcome.tier is Tier.CPU_SEVERAL_WORKERS
    assert len(outcome.workers) == 2
    (lent,) = outcome.offloaded
    assert lent.kind is DeviceKind.CPU
    assert 11 <= lent.layers <= 29
    refused(request(distributed=False), *(host(name, ram=60 * GIB) for name in ("a", "b", "c")))


def test_cpus_of_several_workers_with_their_gpus() -> None:
    """2 x 40 GiB of RAM hold 38 layers, and a GPU the other two."""
    machines = [host("a", ram=40 * GIB), host("b", 6 * GIB, ram=40 * GIB)]
    outcome = placed(request(), *machines)
    assert outcome.tier is Tier.CPU_SEVERAL_WORKERS
    assert {share.kind for share in outcome.offloaded} == {DeviceKind.CPU, DeviceKind.CUDA}
    refused(request(), machines[0], host("b", ram=40 * GIB))


# --- what the administrator says --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "tier", "on_gpus"),
    [
        (0, Tier.CPU, {}),
        (1, Tier.PART_ON_CPU, {"a/gpu0": 1}),
        (11, Tier.PART_ON_CPU, {"a/gpu0": 11}),
        (39, None, {}),
        (40, None, {}),
    ],
)
def test_gpu_layers_are_exactly_as_asked(layers: int, tier: Tier | None, on_gpus: dict[str, int]) -> None:
    """Below all of them, that the CPU computes the others was asked for with it."""
    asked = request(gpu_layers=layers, cpu_offload=False)
    if tier is None:
        refused(asked, host("a", 24 * GIB))
    else:
        outcome = placed(asked, host("a", 24 * GIB))
        assert (outcome.tier, offloaded(outcome)) == (tier, on_gpus)


def test_all_gpu_layers_or_more_are_all() -> None:
    for layers in (40, 99):
        outcome = placed(request(gpu_layers=layers), host("a", 48 * GIB, 48 * GIB))
        assert (outcome.tier, sum(offloaded(outcome).values())) == (Tier.ONE_WORKER, 40)


def test_what_lacks_room_with_gpu_layers_says_so() -> None:
    """12 layers do not fit on 24 GiB, and it is memory that is short."""
    outcome = refused(request(gpu_layers=12), host("a", 24 * GIB))
    assert outcome.lacks_room
    (part,) = [tier for tier in outcome.tiers if tier.tier is Tier.PART_ON_CPU]
    assert (part.rule, part.layers, part.of_layers) == (Rule.MEMORY, 11, 12)
    assert part.short > 0


def test_the_cpu_of_a_named_worker_alone() -> None:
    machines = [host("a", 24 * GIB, ram=128 * GIB), host("b", 24 * GIB, ram=128 * GIB)]
    outcome = placed(request(cpu_offload=False, devices=(("b", "cpu"),)), *machines)
    assert (outcome.tier, outcome.worker) == (Tier.CPU, "b")
    both = placed(request(cpu_offload=False, devices=(("b", "cpu"), ("b", "gpu0"))), *machines)
    assert offloaded(both) == {"b/gpu0": 11}


@pytest.mark.parametrize(
    ("split", "named", "on_gpus"),
    [
        ((30, 10), (), {"a/gpu1": 30, "a/gpu0": 10}),
        ((10, 30), (), {"a/gpu0": 10, "a/gpu1": 30}),
        ((10, 30), ("gpu0", "gpu1"), {"a/gpu0": 10, "a/gpu1": 30}),
        ((10, 20), ("gpu1", "gpu0"), None),  # 20 layers do not fit on gpu0
        ((5, 20), (), {"a/gpu0": 5, "a/gpu1": 20}),
        ((12,), (), {"a/gpu1": 12}),
        ((32,), (), None),
        ((10, 10, 10), (), None),  # there are two
    ],
)
def test_tensor_split(split: tuple[int, ...], named: tuple[str, ...], on_gpus: dict[str, int] | None) -> None:
    """24 and 64 GiB hold 11 and 31 layers."""
    asked = request(tensor_split=split, devices=tuple(("a", name) for name in named))
    if on_gpus is None:
        refused(asked, host("a", 24 * GIB, 64 * GIB))
    else:
        assert offloaded(placed(asked, host("a", 24 * GIB, 64 * GIB))) == on_gpus


def test_a_worker_without_a_cpu_device_keeps_no_layers_on_it() -> None:
    """Its RAM is not offered. It may lend its GPUs, and hold a whole model on them."""
    bare = host("bare", 24 * GIB, ram=None)
    for spec in ({}, {"gpu_layers": 5}, {"tensor_split": (5,)}):
        outcome = refused(request(**spec), bare)
        assert not any("TiB" in tier.message for tier in outcome.tiers)
        assert offloaded(placed(request(**spec), bare, host("ram", ram=128 * GIB)))
    assert placed(request(), host("bare", 90 * GIB, ram=None)).tier is Tier.ONE_DEVICE


# --- overcommit -------------------------------------------------------------------------------------------------------


def test_named_devices_are_overcommitted_only_where_asked_for_and_with_a_warning() -> None:
    named = {"devices": (("a", "gpu0"), ("a", "gpu1")), "cpu_offload": False}
    machines = [host("a", 24 * GIB, 24 * GIB), host("b", 80 * GIB, 80 * GIB)]
    refused(request(**named), *machines)
    outcome = place(fleet_of(*machines), request(**named, overcommit=True))
    assert isinstance(outcome, Placement)
    assert outcome.workers == ("a",)
    assert sum(offloaded(outcome).values()) == 40
    assert "overcommitted" in outcome.warning
    fits = placed(request(devices=(("b", "gpu0"), ("b", "gpu1")), overcommit=True), *machines)
    assert fits.warning == ""


# --- unified memory ---------------------------------------------------------------------------------------------------


def mac(name: str, ram: int, limit: int) -> Worker:
    """Its GPU may have `limit` of the RAM."""
    return host(name, devices=(gpu(limit, kind=DeviceKind.METAL, unified=True), cpu(ram)))


def test_unified_memory_holds_no_more_than_there_is() -> None:
    """64 GiB of RAM, of which the GPU may have 48: 80 GiB do not fit; 60 do, 23 layers on the GPU, and 7 beside it."""
    refused(request(), mac("mac", 64 * GIB, 48 * GIB))
    smaller = ask(sized_profile([2 * GIB] * 29, output=2 * GIB), cpu_offload=True)
    outcome = placed(smaller, mac("mac", 64 * GIB, 48 * GIB))
    assert (outcome.tier, sum(offloaded(outcome).values())) == (Tier.PART_ON_CPU, 23)


def test_two_machines_of_unified_memory_share_a_model() -> None:
    outcome = placed(request(), mac("a", 64 * GIB, 60 * GIB), mac("b", 64 * GIB, 60 * GIB))
    assert outcome.tier is Tier.SEVERAL_WORKERS
    assert len(outcome.offloaded) == 2
