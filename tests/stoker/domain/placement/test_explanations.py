"""What is said when nothing fits: each tier's reason, the nearest misses, and changes that were tried."""

from collections.abc import Iterable
from typing import Any

import pytest

from stoker.domain.claims import Snapshot
from stoker.domain.deployments import EngineOptions
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import place
from stoker.domain.placement.types import MAX_REJECTIONS, Rule, Tier, Unplaceable
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Device, DeviceKind, Engine, EngineKind, Worker, WorkerState
from tests.builders import make_device, make_layer, make_profile, make_request, make_spec, make_worker


def host(name: str, *gpus: int, ram: int = 64 * GIB, **overrides: Any) -> Worker:
    """A worker that can share a model, with GPUs of those GiB."""
    devices = [
        make_device(id=f"gpu{index}", engine_name=f"CUDA{index}", total=size * GIB) for index, size in enumerate(gpus)
    ]
    cpu = make_device(kind=DeviceKind.CPU, total=ram)
    return make_worker(name=name, **({"devices": (*devices, cpu), "serves_rpc": True} | overrides))


def why(workers: Iterable[Worker], **overrides: Any) -> Unplaceable:
    outcome = place(Fleet.of(Snapshot.of(workers, ())), make_request(**overrides))
    assert isinstance(outcome, Unplaceable)
    return outcome


def texts(outcome: Unplaceable) -> list[str]:
    return [one.text for one in outcome.suggestions]


LARGE = make_profile(layers=tuple(make_layer(weights=1 * GIB) for _ in range(61)), context_length=16_384)


def test_less_context_and_a_smaller_cache_are_suggested_with_the_worker_that_then_fits() -> None:
    spec = make_spec(options=EngineOptions(context_length=16_384), distributed=False)
    outcome = why([host("gpu-1", 8), host("gpu-2", 10)], spec=spec)
    assert "context 16384 → 8192 fits on gpu-2" in texts(outcome)
    assert any(text.startswith("one more device with ≥ ") for text in texts(outcome))


def test_the_cpu_is_suggested_with_how_many_layers_stay_on_gpus() -> None:
    outcome = why([host("gpu-1", 24, 24)], profile=LARGE)
    assert "allow CPU offload: 40 of 62 layers on GPUs of gpu-1" in texts(outcome)
    tiers = {one.tier: one for one in outcome.tiers}
    assert tiers[Tier.ONE_WORKER].layers == 40
    assert tiers[Tier.ONE_WORKER].of_layers == 62
    assert tiers[Tier.PART_ON_CPU].rule is Rule.CPU_NOT_ALLOWED


def test_sharing_is_suggested_where_it_is_switched_off() -> None:
    outcome = why([host("a", 48), host("b", 48)], profile=LARGE, spec=make_spec(distributed=False))
    assert "allow several workers: fits on 2 workers" in texts(outcome)
    assert {one.tier: one.rule for one in outcome.tiers}[Tier.SEVERAL_WORKERS] is Rule.NOT_DISTRIBUTED


@pytest.mark.parametrize(
    ("engines", "rule"),
    [
        pytest.param(("b1", "b2"), Rule.ENGINE_MISMATCH, id="other builds"),
        pytest.param(("b1", ""), Rule.NO_RPC, id="one cannot lend"),
    ],
)
def test_why_workers_cannot_share(engines: tuple[str, str], rule: Rule) -> None:
    workers = [
        host(
            f"w{index}",
            48,
            engine=Engine(kind=EngineKind.NATIVE, version=version, rpc_protocol="7.0.0" if version else None),
        )
        for index, version in enumerate(engines)
    ]
    outcome = why(workers, profile=LARGE)
    assert {one.tier: one.rule for one in outcome.tiers}[Tier.SEVERAL_WORKERS] is rule


def test_a_cordoned_worker_that_would_hold_it_is_named() -> None:
    outcome = why([host("small", 4), host("large", 80, state=WorkerState.CORDONED)], profile=LARGE)
    assert "uncordon large: it fits there" in texts(outcome)


def test_what_is_missing_is_the_device_that_would_hold_the_rest() -> None:
    """62 layers of 1.1 GiB with their cache: two devices of 24 GiB hold 40 of them."""
    outcome = why([host("gpu-1", 24, 24)], profile=LARGE, spec=make_spec(distributed=False))
    (one_worker,) = [one for one in outcome.tiers if one.tier is Tier.ONE_WORKER]
    assert outcome.summary.removesuffix(".").lower() == one_worker.message.lower()
    assert one_worker.short == 27_829_288_960
    (more,) = [text for text in texts(outcome) if text.startswith("one more device")]
    assert more.endswith(" in gpu-1")


def test_a_worker_short_of_ram_is_told_apart_from_one_short_of_gpu_memory() -> None:
    outcome = why([host("big-gpu", 80, ram=512 * MIB), host("small-gpu", 4)])
    rules = {(one.worker, one.device): one.rule for one in outcome.rejections}
    assert rules["big-gpu", "cpu"] is Rule.HOST_MEMORY
    assert rules["small-gpu", "gpu0"] is Rule.MEMORY
    assert outcome.lacks_room


def test_old_devices_are_refused_by_their_compute_capability() -> None:
    maxwell = make_device(total=48 * GIB, compute_capability="5.2", name="TITAN X")
    old = make_worker(name="old", devices=(maxwell, make_device(kind=DeviceKind.CPU)))
    outcome = why([old, host("gpu-1", 4)])
    refused = {one.worker: one for one in outcome.rejections}
    assert refused["old"].rule is Rule.COMPUTE_CAPABILITY
    assert "5.2" in refused["old"].message


def test_of_a_large_fleet_the_nearest_are_told_and_the_others_counted() -> None:
    outcome = why([host(f"w{index}", *[1, 2, 3] * 2) for index in range(100)], profile=LARGE)
    assert len(outcome.rejections) == MAX_REJECTIONS
    assert outcome.more == {Rule.MEMORY: 500}
    shorts = [one.short for one in outcome.rejections]
    assert shorts == sorted(shorts)
    assert len(outcome.model_dump_json()) < 60_000


def test_a_device_that_is_named_and_not_there_comes_first() -> None:
    outcome = why([host("gpu-1", 4)], spec=make_spec(devices=(("gpu-1", "gpu7"), ("gpu-1", "gpu0"))))
    assert (outcome.rejections[0].rule, outcome.rejections[0].device) == (Rule.NO_SUCH_DEVICE, "gpu7")
    assert outcome.summary == "gpu-1/gpu7: there is no such device."


def test_unified_memory_counts_once() -> None:
    """A Mac of 32 GiB: what the CPU offers and what the GPU has are the same bytes."""
    gpu = Device(id="gpu0", kind=DeviceKind.METAL, total=30 * GIB, engine_name="MTL0", unified=True)
    ram = make_device(kind=DeviceKind.CPU, total=32 * GIB, used=24 * GIB)
    outcome = why([make_worker(name="mac", devices=(gpu, ram))])
    (one_device,) = [one for one in outcome.tiers if one.tier is Tier.ONE_DEVICE]
    assert one_device.rule is Rule.MEMORY
    assert "mac/gpu0, has 6.76 GiB" in one_device.message  # of 8 GiB, 1.24 are the main server's


def test_suggestions_of_earlier_rows_are_read() -> None:
    kept = {"rejections": [], "summary": "Needs more.", "suggestions": ["set slots to 2"]}
    assert [one.text for one in Unplaceable.model_validate(kept).suggestions] == ["set slots to 2"]
