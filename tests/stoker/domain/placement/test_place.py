"""Placement: which device, why, and why not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.claims import Claim, Snapshot
from stoker.domain.deployments import EngineOptions, Strategy
from stoker.domain.estimation.estimate import estimate, whole
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.models import ModelSource
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, place, wakeable
from stoker.domain.placement.reservations import Waiting
from stoker.domain.placement.types import Placement, Rule, Tier, Unplaceable
from stoker.domain.units import GIB
from stoker.domain.workers import Device, DeviceKind, Worker, WorkerState
from tests.builders import make_device, make_files, make_profile, make_request, make_spec, make_worker
from tests.stoker.domain.placement.judge import with_changes


def needs(options: EngineOptions | None = None, split: tuple[int, ...] = ()) -> MemoryEstimate:
    outcome = estimate(make_profile(), options or make_spec().options, split)
    assert isinstance(outcome, MemoryEstimate)
    return outcome


CPU_SIZE = needs().host.total
ON_GPU = needs(split=whole(make_profile()))
GPU_SIZE = ON_GPU.devices[0].total
HOST_SIZE = ON_GPU.host.total


def cpu(total: int) -> Device:
    return make_device(id="cpu", kind=DeviceKind.CPU, total=total, reserve=0, used=0)


def gpu(total: int, number: int = 0) -> Device:
    return make_device(
        id=f"gpu{number}", kind=DeviceKind.CUDA, engine_name=f"CUDA{number}", total=total, reserve=0, used=0
    )


def worker(name: str, *devices: Device, **overrides: object) -> Worker:
    return make_worker(name=name, devices=devices, **overrides)


def fleet_of(*workers: Worker, claims: tuple[Claim, ...] = ()) -> Fleet:
    return Fleet.of(Snapshot.of(workers, claims))


def placed(outcome: Placement | Unplaceable) -> tuple[str, str]:
    assert isinstance(outcome, Placement), outcome
    return outcome.worker, outcome.shares[0].device


def refused(outcome: Placement | Unplaceable) -> list[tuple[Rule, str, str]]:
    assert isinstance(outcome, Unplaceable), outcome
    return [(rejection.rule, rejection.worker, rejection.device) for rejection in outcome.rejections]


def test_exactly_enough_is_enough_and_one_byte_less_is_not() -> None:
    assert placed(place(fleet_of(worker("w", cpu(CPU_SIZE))), make_request())) == ("w", "cpu")
    outcome = place(fleet_of(worker("w", cpu(CPU_SIZE - 1))), make_request())
    assert refused(outcome) == [(Rule.MEMORY, "w", "cpu")]
    assert isinstance(outcome, Unplaceable)
    assert outcome.rejections[0].short == 1


def test_a_gpu_comes_before_a_cpu() -> None:
    roomy = fleet_of(worker("a", cpu(1000 * GIB)), worker("b", gpu(GPU_SIZE), cpu(HOST_SIZE)))
    outcome = place(roomy, make_request())
    assert placed(outcome) == ("b", "gpu0")
    assert isinstance(outcome, Placement)
    layers = make_profile().block_count + 1
    assert [(s.device, s.layers, s.claim) for s in outcome.shares] == [
        ("gpu0", layers, GPU_SIZE),
        ("cpu", 0, HOST_SIZE),
    ]


def test_a_gpu_whose_host_has_no_ram_for_its_part_is_refused() -> None:
    outcome = place(fleet_of(worker("w", gpu(GPU_SIZE), cpu(HOST_SIZE - 1))), make_request())
    assert (Rule.HOST_MEMORY, "w", "cpu") in refused(outcome)


def test_the_cpu_of_a_gpu_host_is_used_only_when_allowed() -> None:
    full = fleet_of(worker("w", gpu(GPU_SIZE - 1), cpu(100 * GIB)))
    outcome = place(full, make_request())
    assert isinstance(outcome, Unplaceable)
    assert {tier.tier: tier.rule for tier in outcome.tiers}[Tier.CPU] is Rule.CPU_NOT_ALLOWED
    assert {"cpu_offload": True} in [suggestion.changes for suggestion in outcome.suggestions]
    part = place(full, make_request(spec=make_spec(cpu_offload=True)))
    assert placed(part) == ("w", "gpu0")
    assert isinstance(part, Placement)
    assert (part.tier, part.shares[0].layers) == (Tier.PART_ON_CPU, make_profile().block_count)
    alone = fleet_of(worker("w", gpu(GIB), cpu(100 * GIB)))
    assert placed(place(alone, make_request(spec=make_spec(cpu_offload=True)))) == ("w", "cpu")


@pytest.mark.parametrize(("strategy", "expected"), [(Strategy.SPREAD, "empty"), (Strategy.BINPACK, "full")])
def test_strategies(strategy: Strategy, expected: str) -> None:
    held = Claim(instance_id="x", incarnation=1, worker="full", device="cpu", size=2 * CPU_SIZE)
    fleet = fleet_of(worker("empty", cpu(4 * CPU_SIZE)), worker("full", cpu(4 * CPU_SIZE)), claims=(held,))
    assert placed(place(fleet, make_request(spec=make_spec(strategy=strategy))))[0] == expected


def test_a_worker_to_avoid_is_taken_only_when_no_other_fits() -> None:
    request = make_request(avoid=("a",))
    assert placed(place(fleet_of(worker("a", cpu(9 * CPU_SIZE)), worker("b", cpu(CPU_SIZE))), request))[0] == "b"
    assert placed(place(fleet_of(worker("a", cpu(9 * CPU_SIZE)), worker("b", cpu(CPU_SIZE - 1))), request))[0] == "a"


@pytest.mark.parametrize(
    ("overrides", "request_overrides", "rule"),
    [
        ({"state": WorkerState.UNREACHABLE}, {}, Rule.UNREACHABLE),
        ({"state": WorkerState.CORDONED}, {}, Rule.CORDONED),
        ({"state": WorkerState.DRAINING}, {}, Rule.DRAINING),
        ({"engine": None}, {}, Rule.NO_ENGINE),
        ({"labels": {"rack": "1"}}, {"spec": make_spec(worker_selector={"rack": "2"})}, Rule.SELECTOR),
        ({}, {"files": make_files(ModelSource.parse("file:/m.gguf"), found_on=("other",))}, Rule.FILE_MISSING),
    ],
)
def test_rules_that_refuse_a_worker(
    overrides: dict[str, object], request_overrides: dict[str, object], rule: Rule
) -> None:
    outcome = place(fleet_of(worker("w", cpu(9 * CPU_SIZE), **overrides)), make_request(**request_overrides))
    assert refused(outcome) == [(rule, "w", "")]


def test_a_worker_without_devices_is_refused() -> None:
    assert refused(place(fleet_of(worker("w")), make_request())) == [(Rule.NO_DEVICES, "w", "")]


def test_only_the_devices_that_were_named() -> None:
    fleet = fleet_of(worker("w", gpu(9 * GPU_SIZE, 0), gpu(GPU_SIZE, 1), cpu(9 * CPU_SIZE)))
    assert placed(place(fleet, make_request(spec=make_spec(devices=(("w", "gpu1"),))))) == ("w", "gpu1")
    assert placed(place(fleet, make_request(spec=make_spec(devices=(("w", "cpu"),))))) == ("w", "cpu")


def test_a_device_that_is_not_there_is_said_first() -> None:
    fleet = fleet_of(worker("w", cpu(1)))
    outcome = place(fleet, make_request(spec=make_spec(devices=(("w", "gpu7"), ("w", "cpu")))))
    assert refused(outcome) == [(Rule.NO_SUCH_DEVICE, "w", "gpu7"), (Rule.MEMORY, "w", "cpu")]
    assert isinstance(outcome, Unplaceable)
    assert "w/gpu7: there is no such device" in outcome.summary


def test_no_worker_at_all() -> None:
    outcome = place(fleet_of(), make_request())
    assert refused(outcome) == [(Rule.NO_WORKERS, "", "")]


def test_the_explanation_names_the_nearest_miss_and_what_would_fit() -> None:
    smaller = needs(EngineOptions(slots=1)).host.total
    fleet = fleet_of(worker("near", cpu(smaller)), worker("far", cpu(1)))
    outcome = place(fleet, make_request())
    assert isinstance(outcome, Unplaceable)
    assert [rejection.worker for rejection in outcome.rejections] == ["near", "far"]
    assert "near" in outcome.summary
    assert {"options.slots": 1} in [suggestion.changes for suggestion in outcome.suggestions]


def test_every_suggestion_would_fit() -> None:
    half = (CPU_SIZE + needs(EngineOptions(slots=1)).host.total) // 2
    fleet = fleet_of(worker("w", cpu(half)))
    outcome = place(fleet, make_request())
    assert isinstance(outcome, Unplaceable)
    changes = [suggestion for suggestion in outcome.suggestions if suggestion.changes]
    assert {option for one in changes for option in one.changes} == {
        "options.context_length",
        "options.slots",
        "options.cache_type",
    }
    for suggestion in changes:
        changed = make_request(spec=with_changes(make_spec(), suggestion))
        assert isinstance(place(fleet, changed), Placement), suggestion


def test_wakeable_passes_over_what_does_not_fit_and_counts_what_it_gave() -> None:
    fleet = fleet_of(worker("w", cpu(CPU_SIZE)))
    big = make_request(instance_id="big", spec=make_spec(options=EngineOptions(slots=64)))
    one, two = make_request(instance_id="one"), make_request(instance_id="two")
    waiting = [Waiting(request=request, waited_seconds=9.0 - index) for index, request in enumerate([big, one, two])]
    assert wakeable(fleet, waiting) == ("one",)


sizes = st.lists(st.integers(0, 3 * CPU_SIZE), min_size=1, max_size=6)


@given(sizes, st.integers(0, 20), st.sampled_from(Strategy))
def test_no_device_is_ever_given_more_than_it_has(totals: list[int], count: int, strategy: Strategy) -> None:
    fleet = fleet_of(*(worker(f"w{index}", cpu(total)) for index, total in enumerate(totals)))
    given = 0
    for number in range(count):
        outcome = place(fleet, make_request(instance_id=str(number), spec=make_spec(strategy=strategy)))
        if isinstance(outcome, Placement):
            fleet = fleet.plus(claims_of(outcome, str(number), 1))
            given += 1
    after = fleet.snapshot()
    for one in after.workers:
        assert after.claimed_on(one, one.devices[0]) <= one.devices[0].total
    assert given == min(count, sum(total // CPU_SIZE for total in totals)), "nothing that fits is refused"


@given(sizes)
def test_the_answer_is_one(totals: list[int]) -> None:
    workers = [worker(f"w{index}", cpu(total)) for index, total in enumerate(totals)]
    forward, backward = place(fleet_of(*workers), make_request()), place(fleet_of(*reversed(workers)), make_request())
    if isinstance(forward, Placement):
        assert forward == backward
    else:
        assert isinstance(backward, Unplaceable)
        assert forward.rejections == backward.rejections
