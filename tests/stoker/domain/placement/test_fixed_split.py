"""`tensor_split`: the administrator says how many layers each device holds, and placement finds the devices.

Beside its layers a GPU has 1 GiB of overhead and some MiB to compute.
"""

import pytest

from stoker.domain.deployments import Strategy
from stoker.domain.placement.admission import admit
from stoker.domain.placement.fixed_split import Split, split_on_several_workers
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import place
from stoker.domain.placement.problem import Model, Problem, model_of
from stoker.domain.placement.types import Placement, PlacementRequest, Rule, Tier, Unplaceable
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Worker
from tests.stoker.domain.placement.audit import audit
from tests.stoker.domain.placement.fleets import ask, cpu, fleet_of, gpu, host, sized_profile

TINY = sized_profile([MIB] * 10, output=MIB)
THIRTY = sized_profile([2 * GIB] * 29, output=2 * GIB)
"""30 layers of 2 GiB with the output: 24 GiB hold 11 of them."""


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


def problem_of(fleet: Fleet, request: PlacementRequest) -> Problem:
    model = model_of(request.profile, request.spec.options)
    assert isinstance(model, Model)
    return Problem(request, model, admit(fleet, request, {}))


@pytest.mark.parametrize("others", [(), (host("w1", ram=None, devices=(gpu(GIB + 64 * MIB),)),)])
def test_no_layers_are_kept_on_the_cpu_of_a_worker_that_offers_none(others: tuple[Worker, ...]) -> None:
    bare = host("w0", GIB + 32 * MIB, ram=None)
    outcome = refused(ask(TINY, tensor_split=(1,), cpu_offload=True), bare, *others)
    assert {tier.tier: tier.rule for tier in outcome.tiers}[Tier.PART_ON_CPU] is Rule.NO_DEVICES
    assert not outcome.lacks_room


def test_the_main_servers_device_is_in_the_group_though_others_are_larger() -> None:
    """w0 has the two largest, and no RAM for the main server; w1 takes the smaller part."""
    request = ask(sized_profile([64 * MIB] * 4, output=64 * MIB), tensor_split=(4, 1))
    outcome = placed(request, host("w0", 5 * GIB, 5 * GIB, ram=600 * MIB), host("w1", 4 * GIB, ram=None))
    assert (outcome.tier, outcome.worker) == (Tier.SEVERAL_WORKERS, "w1")
    assert set(outcome.workers) == {"w0", "w1"}
    assert layers_by_device(outcome)["w1/gpu0"] == 1


def test_the_main_server_may_have_only_its_cpu_where_it_keeps_layers() -> None:
    request = ask(TINY, tensor_split=(1,), cpu_offload=True)
    outcome = placed(request, host("w0", 2 * GIB, ram=600 * MIB), host("w1", ram=2 * GIB))
    assert (outcome.tier, outcome.worker) == (Tier.PART_ON_CPU_SEVERAL_WORKERS, "w1")
    assert layers_by_device(outcome) == {"w0/gpu0": 1}


def test_one_worker_before_several_and_few_before_many() -> None:
    singles = [host(f"n{number}", 24 * GIB) for number in range(6)]
    pair = host("pair", 24 * GIB, 24 * GIB)
    three = host("three", 24 * GIB, 24 * GIB, 24 * GIB)
    request = ask(THIRTY, tensor_split=(10, 10, 10))
    assert placed(request, *singles, pair, three).workers == ("three",)
    assert len(placed(request, *singles, pair).workers) == 2
    assert len(placed(request, *singles).workers) == 3


def test_unlike_parts_take_workers_that_add_up() -> None:
    """Neither the two with the most devices nor the two with the largest are enough: one of each is."""
    small = [host(f"small{number}", *[10 * GIB] * 4) for number in range(2)]  # 4 layers on each
    large = [host(f"large{number}", 40 * GIB) for number in range(2)]  # 19 layers
    outcome = placed(ask(THIRTY, tensor_split=(4, 4, 4, 18)), *small, *large)
    assert len(outcome.workers) == 2
    assert [share.layers for share in outcome.offloaded] == [4, 4, 4, 18]


def test_each_part_is_on_the_device_that_is_named_for_it() -> None:
    named = (("b", "gpu0"), ("a", "gpu1"))
    workers = [host("a", 64 * GIB, 64 * GIB), host("b", 64 * GIB, 64 * GIB)]
    outcome = placed(ask(THIRTY, tensor_split=(20, 10), devices=named), *workers)
    assert layers_by_device(outcome) == {"b/gpu0": 20, "a/gpu1": 10}
    small = refused(ask(THIRTY, tensor_split=(20, 10), devices=named), workers[0], host("b", 24 * GIB, 64 * GIB))
    (several,) = [tier for tier in small.tiers if tier.tier is Tier.SEVERAL_WORKERS]
    assert several.message.startswith("the part of 20 layers needs a device with 41 GiB; b/gpu0 has 24 GiB")


@pytest.mark.parametrize(("strategy", "device"), [(Strategy.SPREAD, "gpu1"), (Strategy.BINPACK, "gpu0")])
def test_the_strategy_chooses_among_devices_that_hold_a_part(strategy: Strategy, device: str) -> None:
    machine = host("a", 24 * GIB, 64 * GIB, ram=256 * GIB)
    outcome = placed(ask(THIRTY, tensor_split=(5,), cpu_offload=True, strategy=strategy), machine)
    assert layers_by_device(outcome) == {f"a/{device}": 5}


def test_unified_memory_is_the_main_servers_ram_too() -> None:
    """20 GiB are claimed on the GPU and about 0.9 beside it; a worker with 21 GiB has both, one with 20.5 has not."""
    request = ask(sized_profile([4 * GIB] * 4, output=3 * GIB), tensor_split=(5,))
    for ram, fits in ((21 * GIB, True), (20 * GIB + 512 * MIB, False)):
        mac = host("mac", devices=(gpu(ram, unified=True), cpu(ram)))
        assert isinstance(place(fleet_of(mac), request), Placement) is fits


# --- large fleets -----------------------------------------------------------------------------------------------------


def test_a_part_that_fits_nowhere_is_refused_at_once() -> None:
    machines = [host(f"n{number:03}", 24 * GIB) for number in range(60)]
    outcome = refused(ask(THIRTY, tensor_split=(10, 20)), *machines)
    told = {tier.tier: tier for tier in outcome.tiers}
    assert set(told) == {Tier.ONE_WORKER, Tier.SEVERAL_WORKERS}
    several = told[Tier.SEVERAL_WORKERS]
    assert (several.rule, several.layers, several.of_layers) == (Rule.MEMORY, 10, 30)
    assert several.message.startswith("the part of 20 layers needs a device with 41 GiB; the largest that is left, n0")
    assert 17 * GIB < several.short < 18 * GIB
    assert outcome.lacks_room


def test_a_few_that_are_needed_are_found_among_very_many() -> None:
    machines = [host(f"n{number:04}", 24 * GIB, ram=700 * MIB) for number in range(1000)]
    outcome = placed(ask(THIRTY, tensor_split=(10, 10, 6, 4)), *machines, host("zmain", 10 * GIB))
    assert outcome.worker == "zmain"
    assert len(outcome.workers) == 4
    assert layers_by_device(outcome)["zmain/gpu0"] == 4


def test_a_search_among_unlike_workers_ends() -> None:
    """Each worker holds other parts, and fifteen are needed: more sets than could be looked at."""
    sizes = [GIB * (2 + 2 * number) for number in range(1, 16)]
    machines = [
        host(f"n{number:03}", *(size + GIB + 40 * MIB for index, size in enumerate(sizes) if (number >> index % 7) & 1))
        for number in range(1, 128)
    ]
    counts = tuple(2 + number for number in range(15))
    request = ask(sized_profile([GIB] * (sum(counts) - 1), output=GIB), tensor_split=counts)
    fleet = fleet_of(*machines)
    problem = problem_of(fleet, request)
    split = Split.of(problem)
    assert split is not None
    assert len({split.able(member.gpus) for member in problem.admission.hosts}) > 100
    layout = split_on_several_workers(problem)
    assert layout is not None
    assert layout.chain.counts == counts
    assert layout.hosts <= 15
