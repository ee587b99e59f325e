"""Placement against the enumeration of all places: `reference.py`. For longer: `python -m tests.placement_run`."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, combinations, pairwise, permutations

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from stoker.domain.claims import Snapshot
from stoker.domain.deployments import Strategy
from stoker.domain.estimation.estimate import DRIVER_OVERHEAD, estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.lending import RPC_SERVER_RAM
from stoker.domain.placement.place import claims_of, place
from stoker.domain.placement.types import Placement, Tier, Unplaceable
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Device, DeviceKind, Worker
from tests.placement_run import run
from tests.stoker.domain.placement.audit import audit, cpu_of
from tests.stoker.domain.placement.fleets import Case, ask, cases, fleet_of, gpu, host, sized_profile
from tests.stoker.domain.placement.judge import MOST_BYTES, comparable, judge
from tests.stoker.domain.placement.reference import Best, Reference, best_place

thorough = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
some = settings(thorough, max_examples=60)


@thorough
@given(cases())
def test_the_best_place_is_found_and_nothing_is_overcommitted(case: Case) -> None:
    judge(case)


@some
@given(cases(most_devices=12, most_workers=6, most_layers=6))
def test_with_more_workers(case: Case) -> None:
    judge(case)


def test_the_cases_lead_to_every_tier() -> None:
    result = run(400, number=1)
    assert not result.faults
    assert set(result.outcomes) == {*Tier, "nothing fits"}


# --- the reference, held against something plainer --------------------------------------------------------------------


@some
@given(cases(most_devices=4, most_workers=3, most_layers=3))
def test_the_reference_finds_what_trying_every_split_finds(case: Case) -> None:
    assume(not case.request.spec.tensor_split and not case.request.avoid)
    places = list(every_place(case))
    best = min(
        places, key=lambda one: (list(Tier).index(one.tier), -one.layers, one.workers, one.devices), default=None
    )
    assert comparable(best_place(case.snapshot, case.request)) == comparable(best)


def every_place(case: Case) -> Iterator[Best]:
    """Each main server with each sequence of devices and each split over them that their memory allows."""
    reference = Reference(case.snapshot, case.request, case.costs, with_avoided=True)
    most, spec = case.costs.layers, case.request.spec
    for main, peers in [*((main, []) for main in reference._mains), *reference._groups()]:
        lent = [(worker, device) for worker in (main, *peers) for device in worker.devices]
        usable = [
            (worker, device)
            for worker, device in lent
            if reference._is_usable(worker, device)
            or (device.kind is DeviceKind.CPU and worker is not main and reference._computes(worker))
        ]
        for count in range(len(usable) + 1):
            for used in permutations(usable, count):
                for layers in range(count, most + 1):
                    kept = most - layers
                    if (kept and not reference._computes(main)) or not (
                        reference._may_offload(layers) or on_cpus(used)
                    ):
                        continue
                    if on_cpus(used) and (spec.gpu_layers is not None or not kept):
                        continue
                    for split in splits(layers, count):
                        if fits(case, main, used, split) and (tier := tier_of(main, used, kept)) is not None:
                            workers = {main.name, *(worker.name for worker, _ in used)}
                            yield Best(tier, 0 if tier is Tier.CPU_SEVERAL_WORKERS else layers, len(workers), count)


def on_cpus(used: tuple[tuple[Worker, Device], ...]) -> bool:
    return any(device.kind is DeviceKind.CPU for _, device in used)


def splits(layers: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to share `layers` among `count` devices, none of them empty."""
    if count == 0:
        yield from [()] if layers == 0 else []
        return
    for cuts in combinations(range(1, layers), count - 1):
        yield tuple(end - start for start, end in pairwise((0, *cuts, layers)))


def fits(case: Case, main: Worker, used: tuple[tuple[Worker, Device], ...], split: tuple[int, ...]) -> bool:
    """Whether every device and every worker's RAM has the room."""
    found = estimate(case.request.profile, case.request.spec.options, split, [device.kind for _, device in used])
    assert isinstance(found, MemoryEstimate)
    needed: Counter[tuple[str, str]] = Counter()
    workers = {worker.name: worker for worker, _ in used} | {main.name: main}
    for (worker, device), memory in zip(used, found.devices, strict=True):
        needed[worker.name, device.id] += memory.total
    for name, worker in workers.items():
        gpus = [device for one, device in used if one.name == name and device.kind is not DeviceKind.CPU]
        ram = cpu_of(worker)
        if ram is None:
            continue
        own = RPC_SERVER_RAM + (DRIVER_OVERHEAD if gpus else 0)
        needed[name, ram.id] += found.host.total if worker is main else own
        unified = sum(needed[name, device.id] for device in gpus if device.unified)
        if needed[name, ram.id] + unified > case.snapshot.allocatable(worker, ram):
            return False
        if unified and any(one.name == name and device is ram for one, device in used):
            return False
    return all(needed[worker.name, device.id] <= case.snapshot.allocatable(worker, device) for worker, device in used)


def tier_of(main: Worker, used: tuple[tuple[Worker, Device], ...], kept: int) -> Tier | None:
    """What it is called; None: the main server would hold no layer."""
    several = any(worker is not main for worker, _ in used)
    if on_cpus(used):
        return Tier.CPU_SEVERAL_WORKERS
    if not used:
        return Tier.CPU
    if kept:
        return Tier.PART_ON_CPU_SEVERAL_WORKERS if several else Tier.PART_ON_CPU
    if several:
        return Tier.SEVERAL_WORKERS if any(worker is main for worker, _ in used) else None
    return Tier.ONE_WORKER if len(used) > 1 else Tier.ONE_DEVICE


# --- one after another ------------------------------------------------------------------------------------------------


@some
@given(cases(most_layers=4), st.integers(1, 12))
def test_one_after_another_until_nothing_fits(case: Case, count: int) -> None:
    """Each is placed beside what those before it claimed, as well as it can be."""
    fleet = Fleet.of(case.snapshot)
    for number in range(count):
        request = case.request.model_copy(update={"instance_id": f"i{number}"})
        outcome = place(fleet, request)
        best = best_place(fleet.snapshot(), request, case.costs)
        assert isinstance(outcome, Placement) is (best is not None)
        assert place(Fleet.of(fleet.snapshot()), request) == outcome, "how the fleet came about does not matter"
        if isinstance(outcome, Unplaceable):
            break
        audit(fleet.snapshot(), request, outcome)
        claims = claims_of(outcome, request.instance_id, request.incarnation)
        after = fleet.plus(claims)
        back = after.minus(claims)
        assert all(not size for size in changes(fleet, back).values())
        assert in_use_by_others(back) == in_use_by_others(after), "what is given back is not taken for another's"
        fleet = after


def changes(before: Fleet, after: Fleet) -> dict[tuple[str, str], int]:
    """Bytes claimed more of each device."""
    one, other = before.snapshot().claimed, after.snapshot().claimed
    return {key: other.get(key, 0) - one.get(key, 0) for key in {*one, *other}}


def in_use_by_others(fleet: Fleet) -> dict[tuple[str, str], int]:
    """Bytes in use on each device beyond what is claimed of it."""
    return {
        (host.name, device.id): max(0, device.used - host.claimed.get(device.id, 0))
        for host in fleet.hosts.values()
        for device in host.worker.devices
    }


# --- large fleets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True])
def test_an_explanation_is_small_on_ten_thousand_devices(mixed: bool) -> None:
    """Of 1,250 workers with long names, some of them cordoned, with other engines, or too old."""
    machines = []
    for number in range(1250):
        gpus = [
            gpu(
                24 * GIB - mixed * (8 * number + index) * MIB // 100,
                index,
                compute_capability="5.2" if number % 9 == 1 else "",
            )
            for index in range(8)
        ]
        machines.append(
            host(
                f"worker-with-a-long-name-in-a-rack-of-the-datacenter-{number:05}",
                ram=64 * GIB,
                devices=(*gpus,),
                serves_rpc=number % 7 != 0,
            )
        )
    request = ask(sized_profile([23 * GIB] * 30))
    outcome = place(fleet_of(*machines), request)
    assert isinstance(outcome, Unplaceable)
    assert len(outcome.model_dump_json()) < MOST_BYTES
    assert len(outcome.rejections) + sum(outcome.more.values()) >= 10_000, "everything is counted"


def test_order_of_a_large_fleet_does_not_matter() -> None:
    machines = [host(f"n{number:02}", *[(16 + number * 7 % 11) * GIB] * (1 + number % 3)) for number in range(40)]
    for profile in (sized_profile([3 * GIB] * 12), sized_profile([7 * GIB] * 12), sized_profile([5 * GIB] * 33)):
        first = place(fleet_of(*machines), ask(profile))
        assert isinstance(first, Placement)
        for turn in (1, 7, 23):
            assert place(fleet_of(*machines[turn:], *machines[:turn]), ask(profile)) == first


def test_how_a_fleet_came_about_does_not_matter() -> None:
    machines = [host(name, 24 * GIB, 24 * GIB) for name in "abcd"]
    request = ask(sized_profile([4 * GIB] * 14))
    a, b, c, d = machines
    at_once = fleet_of(*machines)
    assert at_once.snapshot() == Snapshot.of(machines, ())
    one_by_one = fleet_of(d, b).with_worker(c, {}).with_worker(a, {"gpu0": 5}).with_worker(a, {})
    less = fleet_of(host("0", 90 * GIB), *machines).without(["0"])
    assert place(at_once, request) == place(one_by_one, request) == place(less, request)


# --- more devices than can be enumerated ------------------------------------------------------------------------------

SLACK = 100 * MIB  # more than computing takes, and less than a layer
HELD = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=4), min_size=1, max_size=16)
"""Of each worker, how many layers each of its GPUs holds."""


@settings(thorough, max_examples=200)
@given(HELD, st.integers(1, 95), st.sampled_from(Strategy))
@example([[7, 3, 3], [8, 6], [3, 1], [3, 2, 2], [4], [8, 1], [7], [6, 5], [8]], 41, Strategy.SPREAD)
@example([[7], [6], [8, 6], [7], [4], [7, 5], [6, 6, 4, 1], [7, 4], [6], [8, 3, 3, 3, 3, 3, 1]], 88, Strategy.SPREAD)
def test_equal_layers_can_be_counted(held: list[list[int]], layers: int, strategy: Strategy) -> None:
    """The fewest workers whose GPUs, 15 at most, hold all layers, and of these as few GPUs as do."""
    machines = [
        host(f"w{number:02}", *(GIB + count * GIB + SLACK for count in counts)) for number, counts in enumerate(held)
    ]
    request = ask(sized_profile([GIB] * layers), strategy=strategy)
    fleet = fleet_of(*machines)
    outcome = place(fleet, request)
    counted = fewest(held, layers)
    if isinstance(outcome, Unplaceable):
        assert counted is None
    else:
        audit(fleet.snapshot(), request, outcome)
        assert (len(outcome.workers), len(outcome.offloaded)) == counted


def fewest(held: list[list[int]], layers: int) -> tuple[int, int] | None:
    """Workers and devices: the most layers that so many of both hold are worked out worker by worker."""
    most = {(0, 0): 0}
    for counts in held:
        sums = list(accumulate(sorted(counts, reverse=True)))
        for (workers, devices), before in list(most.items()):
            for used, more in enumerate(sums[: 15 - devices], 1):
                key = (workers + 1, devices + used)
                most[key] = max(most.get(key, 0), before + more)
    return min((key for key, count in most.items() if count >= layers), default=None)
