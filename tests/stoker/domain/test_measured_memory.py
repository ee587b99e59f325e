"""Estimate beside measurement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.estimation.types import DeviceMemory, HostMemory, MemoryEstimate
from stoker.domain.measured_memory import HOST, MeasuredMemory, MemoryComparison, compare_memory, with_workers
from stoker.domain.measurements import Buffers
from stoker.domain.placement.types import DeviceShare, Placement
from stoker.domain.workers import DeviceKind

CPU = DeviceShare(device="cpu", kind=DeviceKind.CPU, layers=0, claim=0)


def gpu(index: int, engine_name: str) -> DeviceShare:
    """Some layers on a GPU."""
    return DeviceShare(device=f"gpu{index}", kind=DeviceKind.CUDA, engine_name=engine_name, layers=1, claim=0)


def placed(*shares: DeviceShare, devices: tuple[DeviceMemory, ...] = (), host: HostMemory | None = None) -> Placement:
    """A placement where only the estimate matters."""
    estimate = MemoryEstimate(context_length=512, slots=1, devices=devices, host=host or HostMemory())
    return Placement(worker="w", shares=shares, estimate=estimate)


def measured(*buffers: tuple[str, Buffers], **rest: object) -> MeasuredMemory:
    """What an engine's log told."""
    return MeasuredMemory.model_validate({"buffers": buffers, **rest})


def test_each_device_gets_the_buffers_of_its_name_in_the_engine() -> None:
    placement = placed(
        gpu(3, "CUDA1"),
        gpu(1, "CUDA0"),
        CPU,
        devices=(
            DeviceMemory(layers=2, weights=100, cache=20, compute=30, overhead=999),
            DeviceMemory(layers=1, weights=50, cache=10, compute=40, overhead=999),
        ),
        host=HostMemory(weights=10, compute=5, output=5, overhead=999),
    )
    took = measured(
        ("CPU_Mapped", Buffers(weights=10)),
        ("CUDA0", Buffers(weights=50, cache=10, compute=20)),
        ("CUDA1", Buffers(weights=100, cache=20, compute=33)),
        ("CUDA_Host", Buffers(compute=6, output=5)),
        ("CUDA10", Buffers(weights=1_000_000)),
        process_resident=77,
        devices_used={"gpu3": 200, "gpu7": 1},
    )
    first, second, host = compare_memory(placement, took)
    assert (first.device, first.used, first.overhead) == ("gpu3", 200, 47)
    assert first.error_ratio == pytest.approx(3 / 150)
    assert not first.exceeds
    assert (second.device, second.used, second.overhead) == ("gpu1", None, None)
    assert second.error_ratio == pytest.approx(-0.2)
    assert (host.device, host.measured, host.used) == (HOST, Buffers(weights=10, compute=6, output=5), 77)
    assert host.error_ratio == pytest.approx(1 / 20)
    assert host.exceeds
    assert host.overhead is None


def test_a_backend_with_several_kinds_of_buffers_on_one_device() -> None:
    placement = placed(gpu(0, "MTL0"), devices=(DeviceMemory(weights=100),))
    took = measured(("MTL0_Mapped", Buffers(weights=90)), ("MTL0_Private", Buffers(weights=10, compute=1)))
    first, _ = compare_memory(placement, took)
    assert first.measured == Buffers(weights=100, compute=1)


def test_on_the_cpu_alone_everything_is_the_hosts() -> None:
    placement = placed(CPU, host=HostMemory(weights=90, cache=10, overhead=50))
    (host,) = compare_memory(placement, measured(("CPU", Buffers(cache=10)), ("CPU_Mapped", Buffers(weights=90))))
    assert (host.device, host.error_ratio, host.used) == (HOST, 0.0, None)


@pytest.mark.parametrize(
    ("buffers", "weights"),
    [
        ({"CPU_Mapped": 92}, 92),
        ({"CPU_Mapped": 92, "CPU_REPACK": 60}, 92),  # of 92 mapped, 60 were copied and need not stay
        ({"CPU_Mapped": 50, "CPU_REPACK": 60}, 60),
        ({"CPU_Mapped": 92, "AMX": 30, "CPU_REPACK": 20}, 92),
        ({"CPU": 40, "CPU_REPACK": 60}, 100),  # read, not mapped: nothing is there twice
        ({"CPU_Mapped": 10, "CUDA_Host": 5, "CUDA0": 100}, 15),
    ],
)
def test_weights_that_the_cpu_wants_in_another_order_count_once(buffers: dict[str, int], weights: int) -> None:
    took = measured(*((name, Buffers(weights=size, cache=1)) for name, size in buffers.items()))
    (host,) = compare_memory(placed(CPU, host=HostMemory(weights=weights)), took)
    assert host.measured is not None
    assert host.measured.weights == weights
    assert host.measured.cache == len(buffers) - ("CUDA0" in buffers)


@pytest.mark.parametrize(
    ("mapped", "on_devices", "weights"),
    [
        (42, 80, 41),  # one too many, which may be a device's
        (84, 80, 41),  # the rest of what is mapped may be weights that went to devices
        (130, 80, 50),  # of these 9 cannot
        (84, 0, 84),
        (30, 80, 30),  # fewer than estimated: as it is
    ],
)
def test_pages_of_weights_that_went_to_devices_are_not_the_hosts(mapped: int, on_devices: int, weights: int) -> None:
    took = measured(("CPU_Mapped", Buffers(weights=mapped)), ("CUDA0", Buffers(weights=on_devices)))
    placement = placed(gpu(0, "CUDA0"), CPU, devices=(DeviceMemory(weights=80),), host=HostMemory(weights=41))
    *_, host = compare_memory(placement, took)
    assert host.measured is not None
    assert host.measured.weights == weights


def lent(worker: str, device: str) -> DeviceShare:
    """Some layers on another worker's device."""
    return DeviceShare(worker=worker, device=device, kind=DeviceKind.CPU, layers=1, claim=0)


def test_the_devices_that_others_lend_are_told_apart_by_worker_and_number() -> None:
    placement = placed(
        lent("w2", "cpu"), gpu(0, "CUDA0"), lent("w3", "gpu0"), lent("w2", "gpu0"),
        devices=tuple(DeviceMemory(weights=size) for size in (1, 2, 3, 4)),
    )  # fmt: skip
    told = measured(
        ("CUDA0", Buffers(weights=2)),
        ("RPC0[127.0.0.1:5002]", Buffers(weights=1)),
        ("RPC1[127.0.0.1:5002]", Buffers(weights=4)),
        ("RPC0[127.0.0.1:5003]", Buffers(weights=3)),
        ("RPC0[127.0.0.1:5004]", Buffers(weights=9)),  # nobody's
        devices_used={"gpu0": 7, "cpu": 8},
    )
    took = with_workers(told, {"127.0.0.1:5002": "w2", "127.0.0.1:5003": "w3"})
    assert [name for name, _ in took.buffers] == [
        "CUDA0", "RPC0[w2]", "RPC1[w2]", "RPC0[w3]", "RPC0[127.0.0.1:5004]",
    ]  # fmt: skip
    *devices, _ = compare_memory(placement, took)
    assert [(one.device, one.error_ratio, one.used) for one in devices] == [
        ("cpu", 0.0, None),
        ("gpu0", 0.0, 7),
        ("gpu0", 0.0, None),  # what this host's driver tells is not about another's
        ("gpu0", 0.0, None),
    ]


def test_before_anything_is_measured() -> None:
    placement = placed(gpu(0, "CUDA0"), devices=(DeviceMemory(weights=1),))
    for one in compare_memory(placement, None):
        assert (one.measured, one.used, one.overhead, one.error_ratio, one.exceeds) == (None, None, None, None, False)


def test_where_nothing_was_estimated_there_is_no_ratio() -> None:
    (host,) = compare_memory(placed(CPU), measured(("CPU", Buffers(weights=1))))
    assert (host.error_ratio, host.exceeds) == (None, False)


def test_an_engine_that_put_nothing_on_a_device() -> None:
    first, _ = compare_memory(placed(gpu(0, "CUDA0"), devices=(DeviceMemory(weights=5),)), measured())
    assert first.error_ratio == -1.0


@pytest.mark.parametrize(("took", "exceeds"), [(9_999, False), (10_200, False), (10_201, True)])
def test_what_may_be_off(took: int, exceeds: bool) -> None:
    one = MemoryComparison(device="gpu0", estimated=DeviceMemory(weights=10_000), measured=Buffers(weights=took))
    assert one.exceeds is exceeds


sizes = st.integers(0, 2**44)


@given(
    estimated=st.builds(DeviceMemory, weights=sizes, cache=sizes, compute=sizes, overhead=sizes),
    took=st.builds(Buffers, weights=sizes, cache=sizes, compute=sizes),
    used=st.none() | sizes,
)
def test_the_overhead_is_never_part_of_the_error(estimated: DeviceMemory, took: Buffers, used: int | None) -> None:
    one = MemoryComparison(device="gpu0", estimated=estimated, measured=took, used=used)
    bare = one.model_copy(update={"estimated": estimated.model_copy(update={"overhead": 0}), "used": None})
    assert one.error_ratio == bare.error_ratio
    assert one.error_ratio is None or one.error_ratio >= -1
    assert one.overhead is None or one.overhead >= 0


def test_it_survives_the_way_through_temporal_and_the_database() -> None:
    took = measured(("CPU", Buffers(weights=3)), process_resident=5, devices_used={"gpu0": 7})
    assert MeasuredMemory.model_validate_json(took.model_dump_json()) == took
