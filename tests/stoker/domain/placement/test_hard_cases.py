"""The cases that are published as hard, with literals: what is right can be counted by hand.

A layer's size here is nearly all that it takes: beside the layers a GPU has 1 GiB of overhead, and some MiB to compute.
"""

from typing import Any

import pytest

from stoker.domain.deployments import Strategy
from stoker.domain.estimation.estimate import PROMPT_CACHE, estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.models import ModelSource
from stoker.domain.placement.place import claims_of, place
from stoker.domain.placement.types import Placement, PlacementRequest, Rule, Tier, Unplaceable
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind, EngineKind, Worker
from tests.builders import make_files
from tests.stoker.domain.placement.audit import audit
from tests.stoker.domain.placement.fleets import NATIVE, OTHER, ask, cpu, fleet_of, gpu, host, sized_profile
from tests.stoker.domain.placement.judge import judge_explanation


def placed(request: PlacementRequest, *workers: Worker) -> Placement:
    fleet = fleet_of(*workers)
    outcome = place(fleet, request)
    assert isinstance(outcome, Placement), outcome
    audit(fleet.snapshot(), request, outcome)
    return outcome


def refused(request: PlacementRequest, *workers: Worker) -> Unplaceable:
    outcome = place(fleet_of(*workers), request)
    assert isinstance(outcome, Unplaceable), outcome
    return outcome


def layers_by_device(placement: Placement) -> dict[str, int]:
    return {f"{placement.worker_of(share)}/{share.device}": share.layers for share in placement.offloaded}


def equal_layers(count: int, size: int, **spec: Any) -> PlacementRequest:
    """A model of `count` equal layers; the output layer takes nothing."""
    return ask(sized_profile([size] * count), **spec)


# --- the main server --------------------------------------------------------------------------------------------------


def test_a_worker_that_can_hold_no_layer_is_not_the_main_server() -> None:
    """It has by far the most RAM, and a GPU that is too small for one layer of 4 GiB."""
    outcome = placed(
        equal_layers(10, 4 * GIB),
        host("tiny", 4 * GIB, ram=2048 * GIB),
        host("a", 24 * GIB, ram=64 * GIB),
        host("b", 24 * GIB, ram=64 * GIB),
    )
    assert outcome.tier is Tier.SEVERAL_WORKERS
    assert set(outcome.workers) == {"a", "b"}
    assert sum(share.layers for share in outcome.offloaded) == 11


def test_nothing_fits_where_those_that_hold_layers_have_no_ram_for_the_main_server() -> None:
    """`tiny` has the RAM and can hold no layer; the others have RAM enough to lend their GPUs, and no more."""
    outcome = refused(
        ask(sized_profile([4 * GIB] * 9, output=4 * GIB)),
        host("tiny", 4 * GIB, ram=2048 * GIB),
        host("a", 24 * GIB, ram=700 * MIB),
        host("b", 24 * GIB, ram=700 * MIB),
    )
    (several,) = [tier for tier in outcome.tiers if tier.tier is Tier.SEVERAL_WORKERS]
    assert several.rule is Rule.HOST_MEMORY
    assert several.short > 0


def test_the_main_servers_gpu_may_hold_a_single_layer() -> None:
    outcome = placed(
        equal_layers(10, 4 * GIB),
        host("small", 6 * GIB, ram=64 * GIB),
        host("a", 24 * GIB, ram=700 * MIB),
        host("b", 24 * GIB, ram=700 * MIB),
    )
    assert outcome.worker == "small"
    assert layers_by_device(outcome)["small/gpu0"] >= 1
    assert set(outcome.workers) == {"small", "a", "b"}


def test_a_big_gpu_whose_host_lacks_ram_hides_no_other() -> None:
    outcome = placed(
        equal_layers(10, 3 * GIB), host("starved", 80 * GIB, ram=100 * MIB), host("other", 24 * GIB, 24 * GIB)
    )
    assert outcome.tier is Tier.ONE_WORKER
    assert outcome.workers == ("other",)


def test_a_big_gpu_whose_host_lacks_ram_for_the_main_server_is_lent() -> None:
    outcome = placed(equal_layers(30, 3 * GIB), host("starved", 80 * GIB, ram=600 * MIB), host("other", 24 * GIB))
    assert outcome.worker == "other"
    assert outcome.workers == ("other", "starved")
    (ram,) = [one for one in outcome.shares if one.worker == "starved" and one.kind is DeviceKind.CPU]
    assert ram.claim == 576 * MIB
    assert ram.layers == 0


def test_a_big_gpu_whose_host_has_no_ram_at_all_is_not_lent() -> None:
    outcome = refused(equal_layers(30, 3 * GIB), host("starved", 80 * GIB, ram=500 * MIB), host("other", 24 * GIB))
    assert outcome.summary


# --- large fleets -----------------------------------------------------------------------------------------------------

SIZES = (24 * GIB, 40 * GIB, 48 * GIB, 80 * GIB)

OF_A_KIND = tuple(host(f"n{number:03}", *[SIZES[number % 4]] * 4) for number in range(100))
"""400 devices: each worker has four equal ones."""

OF_EACH_KIND = tuple(host(f"n{number:03}", *SIZES) for number in range(100))
"""400 devices: each worker has one of each size."""


@pytest.mark.parametrize(
    ("workers", "count", "size", "hosts", "devices"),
    [
        (OF_A_KIND, 62, 11.5, 3, 11),  # 6 on 80 GiB: 24 a worker, 10 devices hold 60
        (OF_EACH_KIND, 62, 11.5, 5, 14),  # 1, 3, 4 and 6: 14 a worker; 5 x 6 + 5 x 4 + 4 x 3 = 62
        (OF_A_KIND, 100, 6, 2, 8),  # 13 on 80 GiB: 52 a worker, 7 devices hold 91
        (OF_A_KIND, 30, 1.5, 1, 1),  # 45 GiB: on one of 48 or 80 GiB
        (OF_A_KIND, 81, 0.5, 1, 1),
        (OF_EACH_KIND, 25, 7, 1, 4),  # 3, 5, 6 and 11
        (OF_EACH_KIND, 26, 7, 2, 3),  # 11 and 11, and one with 4 more
        (OF_EACH_KIND, 22, 7, 1, 3),  # 11, 6 and 5
    ],
)
def test_four_hundred_devices(workers: tuple[Worker, ...], count: int, size: float, hosts: int, devices: int) -> None:
    outcome = placed(equal_layers(count, int(size * GIB)), *workers)
    assert (len(outcome.workers), len(outcome.offloaded)) == (hosts, devices)


@pytest.mark.parametrize("workers", [OF_A_KIND, OF_EACH_KIND])
def test_more_than_fifteen_devices_are_refused_with_the_reason(workers: tuple[Worker, ...]) -> None:
    """91 layers of 11.5 GiB: 15 of 80 GiB hold 90."""
    assert len(placed(equal_layers(90, int(11.5 * GIB)), *OF_A_KIND).offloaded) == 15
    outcome = refused(equal_layers(91, int(11.5 * GIB)), *workers)
    (several,) = [tier for tier in outcome.tiers if tier.tier is Tier.SEVERAL_WORKERS]
    assert (several.layers, several.of_layers) == (91, 92), "with the output layer"
    assert "15 devices" in several.message


def test_sixteen_devices_that_hold_a_layer_each() -> None:
    """The output layer lies with the last one."""
    machines = [host(f"n{number:02}", 24 * GIB) for number in range(16)]
    assert len(placed(equal_layers(15, 20 * GIB), *machines).offloaded) == 15
    outcome = refused(equal_layers(16, 20 * GIB), *machines)
    assert any("15 devices" in tier.message for tier in outcome.tiers)


# --- claims of groups -------------------------------------------------------------------------------------------------

A, B = host("a", 24 * GIB, ram=64 * GIB), host("b", 24 * GIB, ram=64 * GIB)


def test_two_groups_that_would_share_a_peer_do_not_overcommit_it() -> None:
    """13 layers of 4 GiB: 5 on 24 GiB, 11 on 48 GiB. What is left of the peer is too little for the second."""
    peer = host("peer", 48 * GIB, ram=64 * GIB)
    first, second = (equal_layers(13, 4 * GIB, instance_id=name) for name in ("first", "second"))
    fleet = fleet_of(A, B, peer)
    group = place(fleet, first)
    assert isinstance(group, Placement)
    assert "peer" in group.workers
    assert len(group.workers) == 2
    booked = claims_of(group, "first", 1)
    assert {claim.worker for claim in booked} == set(group.workers), "claims are booked where the RPC server runs"
    after = fleet.plus(booked)
    assert isinstance(place(after, second), Unplaceable)
    elsewhere = after.with_worker(host("peer2", 48 * GIB, ram=64 * GIB), {})
    other = place(elsewhere, second)
    assert isinstance(other, Placement)
    audit(elsewhere.snapshot(), second, other)
    assert "peer2" in other.workers
    assert set(other.workers).isdisjoint(group.workers)
    assert isinstance(place(after.minus(booked), second), Placement)


def test_ram_of_rpc_servers_adds_up_on_a_shared_peer() -> None:
    """Its GPUs have room for both groups; its RAM, if 800 MiB, for one RPC server of 576 MiB and no more."""
    request = equal_layers(13, 4 * GIB, instance_id="second")
    for ram, fits in ((800 * MIB, False), (1500 * MIB, True)):
        peer = host("peer", 40 * GIB, 40 * GIB, ram=ram)
        fleet = fleet_of(A, B, peer)
        first = place(fleet, equal_layers(13, 4 * GIB, instance_id="first", devices=(("a", "gpu0"), ("peer", "gpu0"))))
        assert isinstance(first, Placement)
        after = fleet.plus(claims_of(first, "first", 1))
        second = place(after, request.model_copy(update={"spec": request.spec.model_copy(update={"devices": ON_PEER})}))
        assert isinstance(second, Placement) is fits, ram


ON_PEER = (("b", "gpu0"), ("peer", "gpu1"))


# --- every layer that fits --------------------------------------------------------------------------------------------


def by_memory(free: tuple[int, ...], layers: int, size: int) -> int:
    """Most layers that fit when they are split in proportion to free memory, as llama.cpp does unasked."""
    bounds = [sum(free[: index + 1]) / sum(free) for index in range(len(free))]
    for count in range(layers, 0, -1):
        shares = [0] * len(free)
        for layer in range(count):
            shares[next(index for index, bound in enumerate(bounds) if layer / count < bound)] += 1
        if all(share * size + GIB + 20 * MIB <= room for share, room in zip(shares, free, strict=True) if share):
            return count
    return 0


@pytest.mark.parametrize(
    ("free", "size", "most", "in_proportion"), [((6, 12, 48), 2, 30, 22), ((20, 48, 48), 3, 36, 34)]
)
def test_no_layer_is_wasted(free: tuple[int, ...], size: int, most: int, in_proportion: int) -> None:
    rooms = tuple(room * GIB for room in free)
    assert by_memory(rooms, 61, size * GIB) == in_proportion
    profile = sized_profile([size * GIB] * 60, output=size * GIB)
    outcome = placed(ask(profile, cpu_offload=True), host("w", *rooms))
    assert outcome.tier is Tier.PART_ON_CPU
    assert sum(share.layers for share in outcome.offloaded) == most
    assert outcome.worker == "w"
    spread_out = placed(ask(profile, cpu_offload=True), *(host(f"w{room}", room * GIB) for room in free))
    assert spread_out.tier is Tier.PART_ON_CPU, "one worker comes before several"


@pytest.mark.parametrize(("free", "size", "most"), [((6, 12, 48), 2, 30), ((20, 48, 48), 3, 36)])
def test_a_whole_fit_that_a_split_in_proportion_misses(free: tuple[int, ...], size: int, most: int) -> None:
    profile = sized_profile([size * GIB] * (most - 1), output=size * GIB)
    rooms = tuple(room * GIB for room in free)
    assert placed(ask(profile), host("w", *rooms)).tier is Tier.ONE_WORKER
    machines = [host(f"w{index}", room) for index, room in enumerate(rooms)]
    assert placed(ask(profile), *machines).tier is Tier.SEVERAL_WORKERS
    refused(ask(sized_profile([size * GIB] * most, output=size * GIB)), host("w", *rooms))


def test_dense_first_blocks() -> None:
    """Three layers of 20 GiB and 27 of 2 GiB. 24 GiB hold one dense layer, and one of the others at most."""
    profile = sized_profile([20 * GIB] * 3 + [2 * GIB] * 27)
    outcome = placed(ask(profile), host("w", 54 * GIB, 24 * GIB, 24 * GIB, 24 * GIB))
    assert [share.layers for share in outcome.offloaded] == [1, 1, 2, 27]
    assert outcome.offloaded[-1].device == "gpu0"
    # On average a layer has 3.8 GiB: by that, two devices of 60 GiB would do, and one of 70 would hold 18 layers.
    refused(ask(profile, distributed=False), host("w", 60 * GIB, 53 * GIB))
    assert [s.layers for s in placed(ask(profile), host("w", 62 * GIB, 56 * GIB)).offloaded] == [3, 28]


# --- memory that is not only one's own --------------------------------------------------------------------------------


def apple(ram: int, **overrides: int) -> Worker:
    chip = gpu(ram, kind=DeviceKind.METAL, unified=True)
    return host("mac", devices=(chip, cpu(ram, **overrides)))


def test_unified_memory_counts_once() -> None:
    """Of 64 GiB, the first takes 31 GiB for its GPU and 0.9 beside it: 33 are left to the GPU, and 32.1 of RAM."""
    fleet = fleet_of(apple(64 * GIB))
    first = place(fleet, equal_layers(10, 3 * GIB))
    assert isinstance(first, Placement)
    fleet = fleet.plus(claims_of(first, "first", 1))
    (snapshot,) = [fleet.snapshot()]
    audit(fleet_of(apple(64 * GIB)).snapshot(), equal_layers(10, 3 * GIB), first)
    assert isinstance(place(fleet, equal_layers(1, int(30.5 * GIB))), Unplaceable), "31.5 and 0.9 are more than 32.1"
    fits = place(fleet, equal_layers(1, 30 * GIB))
    assert isinstance(fits, Placement)
    audit(snapshot, equal_layers(1, 30 * GIB), fits)


def test_ram_that_others_use_is_not_the_gpus_where_memory_is_unified() -> None:
    request = equal_layers(10, 4 * GIB)  # 41 GiB, and about 0.9 beside it
    assert placed(request, apple(64 * GIB, used=22 * GIB)).tier is Tier.ONE_DEVICE
    refused(request, apple(64 * GIB, used=23 * GIB))


def test_memory_in_use_by_others_counts() -> None:
    request = equal_layers(10, 2 * GIB)
    assert placed(request, host("w", devices=(gpu(24 * GIB, used=2 * GIB), cpu(64 * GIB)))).tier is Tier.ONE_DEVICE
    refused(request, host("w", devices=(gpu(24 * GIB, used=4 * GIB), cpu(64 * GIB))))


# --- who may be in a group --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"engine": OTHER}, Rule.ENGINE_MISMATCH),
        ({"engine": NATIVE.model_copy(update={"rpc_protocol": "8.0.0"})}, Rule.ENGINE_MISMATCH),
        ({"engine": NATIVE.model_copy(update={"kind": EngineKind.BUNDLED})}, Rule.ENGINE_MISMATCH),
        ({"serves_rpc": False}, Rule.NO_RPC),
        ({"engine": NATIVE.model_copy(update={"rpc_protocol": None})}, Rule.NO_RPC),
    ],
)
def test_a_group_needs_equal_engines_that_share(other: dict[str, object], rule: Rule) -> None:
    request = equal_layers(10, 4 * GIB)
    assert placed(request, A, B).tier is Tier.SEVERAL_WORKERS
    outcome = refused(request, A, B.model_copy(update=other))
    (several,) = [tier for tier in outcome.tiers if tier.tier is Tier.SEVERAL_WORKERS]
    assert several.rule is rule


def test_groups_can_be_switched_off() -> None:
    outcome = refused(equal_layers(10, 4 * GIB, distributed=False), A, B)
    assert [tier.rule for tier in outcome.tiers if tier.tier is Tier.SEVERAL_WORKERS] == [Rule.NOT_DISTRIBUTED]
    assert {"distributed": True} in [suggestion.changes for suggestion in outcome.suggestions]


def test_only_the_main_server_reads_the_file() -> None:
    source = ModelSource.parse("file:/models/m.gguf")
    request = equal_layers(10, 4 * GIB, model=source).model_copy(update={"files": make_files(source, found_on=("b",))})
    assert placed(request, A, B).worker == "b"
    refused(request, A)


@pytest.mark.parametrize(
    ("capability", "asked", "fits"),
    [("5.2", None, False), ("6.0", None, True), ("", None, True), ("10.0", "9.0", True), ("8.9", "9.0", False)],
)
def test_compute_capability(capability: str, asked: str | None, fits: bool) -> None:
    device = gpu(24 * GIB, compute_capability=capability)
    request = equal_layers(4, 4 * GIB, min_compute_capability=asked)
    outcome = place(fleet_of(host("w", devices=(device,))), request)
    assert isinstance(outcome, Placement) is fits
    if isinstance(outcome, Unplaceable):
        assert Rule.COMPUTE_CAPABILITY in [rejection.rule for rejection in outcome.rejections]


def test_a_group_claims_no_prompt_cache_for_it_has_none() -> None:
    request, cards = equal_layers(10, 6 * GIB), [24 * GIB] * 2
    alone = placed(request, host("a", *cards, *cards))
    group = placed(request, host("a", *cards), host("b", *cards))
    assert group.tier is Tier.SEVERAL_WORKERS
    (of_one,), (of_group,) = (
        [share.claim for share in outcome.shares if share.kind is DeviceKind.CPU and not share.worker]
        for outcome in (alone, group)
    )
    assert of_one - of_group == PROMPT_CACHE == 256 * MIB
    assert of_group == group.estimate.host.total


# --- of several that fit ----------------------------------------------------------------------------------------------


def test_fewer_workers_come_before_fewer_devices() -> None:
    outcome = placed(equal_layers(10, 6 * GIB), host("a", *[24 * GIB] * 4), host("b", 48 * GIB), host("c", 48 * GIB))
    assert outcome.tier is Tier.ONE_WORKER
    assert (outcome.worker, len(outcome.offloaded)) == ("a", 4)


def test_fewer_devices_come_before_the_strategy() -> None:
    for strategy in Strategy:
        outcome = placed(
            equal_layers(10, 6 * GIB, strategy=strategy), host("a", *[24 * GIB] * 4), host("b", 48 * GIB, 48 * GIB)
        )
        assert (outcome.worker, len(outcome.offloaded)) == ("b", 2)


def test_binpack_keeps_large_holes_whole() -> None:
    """Five models of 10 GiB on 24, 24 and 80 GiB: two on each of the small ones before the large one is touched."""
    fleet = fleet_of(host("a", 80 * GIB), host("b", 24 * GIB), host("c", 24 * GIB))
    chosen = []
    for number in range(5):
        outcome = place(fleet, equal_layers(5, 2 * GIB, strategy=Strategy.BINPACK))
        assert isinstance(outcome, Placement)
        chosen.append(outcome.worker)
        fleet = fleet.plus(claims_of(outcome, str(number), 1))
    assert sorted(chosen) == ["a", "b", "b", "c", "c"]
    assert chosen[-1] == "a"
    assert isinstance(place(fleet, equal_layers(1, 60 * GIB)), Placement)


def test_spread_takes_the_least_loaded() -> None:
    fleet = fleet_of(host("a", 48 * GIB), host("b", 48 * GIB), host("c", 48 * GIB))
    chosen = []
    for number in range(6):
        outcome = place(fleet, equal_layers(5, 2 * GIB))
        assert isinstance(outcome, Placement)
        chosen.append(outcome.worker)
        fleet = fleet.plus(claims_of(outcome, str(number), 1))
    assert sorted(chosen[:3]) == sorted(chosen[3:]) == ["a", "b", "c"]


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize(("count", "tier"), [(4, Tier.ONE_DEVICE), (10, Tier.ONE_WORKER)])
def test_a_worker_that_holds_the_file_is_preferred(strategy: Strategy, count: int, tier: Tier) -> None:
    request = equal_layers(count, 4 * GIB, strategy=strategy)
    workers = [host(name, 24 * GIB, 24 * GIB) for name in ("a", "b", "c")]
    workers[1] = workers[1].model_copy(update={"holds": (request.files.key,)})
    outcome = placed(request, *workers)
    assert (outcome.tier, outcome.worker) == (tier, "b")


def test_a_worker_that_holds_the_file_runs_the_main_server() -> None:
    request = equal_layers(10, 4 * GIB)
    holder = B.model_copy(update={"holds": (request.files.key,)})
    assert placed(request, A, holder).worker == "b"


# --- the estimate that is used ----------------------------------------------------------------------------------------


def test_a_byte_decides() -> None:
    """Of one device, of two in a pipeline, and of the RAM beside them."""
    profile = sized_profile([3 * GIB, 5 * GIB, 2 * GIB, 4 * GIB], output=1 * GIB)
    request = ask(profile)
    alone, two = (estimate(profile, request.spec.options, split) for split in ((5,), (2, 3)))
    assert isinstance(alone, MemoryEstimate)
    assert isinstance(two, MemoryEstimate)
    size, (left, right) = alone.devices[0].total, [device.total for device in two.devices]
    assert placed(request, host("w", size, ram=alone.host.total)).tier is Tier.ONE_DEVICE
    refused(request, host("w", size - 1, ram=alone.host.total))
    refused(request, host("w", size, ram=alone.host.total - 1))
    assert placed(request, host("w", right, left, ram=two.host.total)).tier is Tier.ONE_WORKER
    for room, other, ram in ((left - 1, right, 0), (left, right - 1, 0), (left, right, -1)):
        refused(request, host("w", room, other, ram=two.host.total + ram))


@pytest.mark.parametrize("size", [20.0, 99.9, 100.0, 110.15, 150.4])
def test_one_more_device_of_the_size_that_is_said_is_enough(size: float) -> None:
    """However it is rounded for people."""
    request = ask(sized_profile([int(size * GIB)]))
    fleet = fleet_of(host("a", 16 * GIB))
    outcome = place(fleet, request)
    assert isinstance(outcome, Unplaceable)
    assert any(suggestion.text.startswith("one more device with ≥ ") for suggestion in outcome.suggestions)
    judge_explanation(fleet.snapshot(), request, outcome)
