"""Devices, from recorded NVML answers."""
# ruff: noqa: N802 - the names are pynvml's

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Device, DeviceKind
from worker_agent.inventory import GpuReading, Inventory, limited, visible_gpus
from worker_agent.limits import Reserves
from worker_agent.memory import HostMemory

RECORDED = Path(__file__).parent / "recorded"
MEMORY = HostMemory(total=64 * GIB, used=10 * GIB)
BOTH = frozenset({"CUDA0", "CUDA1", "CUDA2", "CUDA3"})


class RecordedNvml:
    """Answers as pynvml would on the machine of a recording. `{"error": n}` is NVML's return code n."""

    def __init__(self, name: str) -> None:
        self._devices = json.loads((RECORDED / f"{name}.json").read_text())["devices"]
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        assert self.open
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._answer(index, "nvmlDeviceGetHandleByIndex")
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return self._answer(handle, "nvmlDeviceGetName")

    def nvmlDeviceGetUUID(self, handle: int) -> Any:
        return self._answer(handle, "nvmlDeviceGetUUID")

    def nvmlDeviceGetMigMode(self, handle: int) -> Any:
        return self._answer(handle, "nvmlDeviceGetMigMode")

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> Any:
        return self._answer(handle, "nvmlDeviceGetCudaComputeCapability")

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._answer(handle, "nvmlDeviceGetTemperature")

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=self._answer(handle, "nvmlDeviceGetUtilizationRates"), memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(**self._answer(handle, "nvmlDeviceGetMemoryInfo"))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        return [SimpleNamespace(**one) for one in self._answer(handle, "nvmlDeviceGetComputeRunningProcesses")]

    def _answer(self, index: int, call: str) -> Any:
        answer = self._devices[index].get(call)
        if isinstance(answer, Mapping) and "error" in answer:
            raise pynvml.NVMLError(answer["error"])
        return answer


class FailingNvml:
    """A host where NVML cannot be opened."""

    def __init__(self, code: int) -> None:
        self._code = code

    def nvmlInit(self) -> None:
        raise pynvml.NVMLError(self._code)


def inventory(engine_devices: frozenset[str] = BOTH, nvml: Any = None, **options: Any) -> Inventory:
    """The inventory of the recorded 2 x RTX 3090 machine with 64 GiB of RAM."""
    values: dict[str, Any] = {"environment": {}, "read_memory": lambda: MEMORY, **options}
    return Inventory(engine_devices, nvml=nvml or RecordedNvml("two_rtx_3090"), **values)


def test_gpus_come_in_the_engines_order_and_then_the_cpu() -> None:
    nvml = RecordedNvml("two_rtx_3090")
    first, second, cpu = inventory(nvml=nvml).read_devices()
    assert first == Device(
        id="gpu0",
        kind=DeviceKind.CUDA,
        name="NVIDIA GeForce RTX 3090",
        total=24 * GIB,
        reserve=512 * MIB,
        used=1_400_897_536,
        uuid="GPU-1f0c9a7e-5d3b-4c8e-9a60-27b1c4d8e3f2",
        engine_name="CUDA0",
        compute_capability="8.6",
        temperature_c=61,
        load_ratio=0.37,
    )
    assert (second.id, second.engine_name, second.used) == ("gpu1", "CUDA1", 342_294_528)
    assert (cpu.id, cpu.kind, cpu.engine_name, cpu.compute_capability) == ("cpu", DeviceKind.CPU, "", "")
    assert (cpu.total, cpu.used, cpu.reserve) == (64 * GIB, 10 * GIB, 2 * GIB)
    assert cpu.name
    assert nvml.open == 0


def test_without_cuda_in_the_engine_gpus_are_not_offered_and_that_is_said_once() -> None:
    with capture_logs() as logs:
        host = inventory(frozenset())
        for _ in range(3):
            assert [device.id for device in host.read_devices()] == ["cpu"]
    (entry,) = logs
    assert entry["event"] == "gpus_not_offered"
    assert "gpu0 (NVIDIA GeForce RTX 3090), gpu1" in entry["reason"]


def test_visible_devices_give_the_engine_names() -> None:
    host = inventory(frozenset({"CUDA0"}), environment={"CUDA_VISIBLE_DEVICES": "1"})
    gpu, _ = host.read_devices()
    assert (gpu.id, gpu.engine_name) == ("gpu1", "CUDA0")


def test_gpus_that_cannot_be_used_are_left_out_and_why_is_said_once() -> None:
    with capture_logs() as logs:
        host = inventory(nvml=RecordedNvml("h100_and_troubles"))
        for _ in range(3):
            assert [device.id for device in host.read_devices()] == ["gpu0", "gpu3", "cpu"]
    assert [entry["reason"] for entry in logs] == [
        "gpu1 is split by MIG, which Stoker does not use yet",
        "gpu2 cannot be read: GPU is lost",
    ]


def test_a_gpu_whose_driver_does_not_say_what_it_can_is_offered_all_the_same() -> None:
    first, last, _ = inventory(nvml=RecordedNvml("h100_and_troubles")).read_devices()
    assert (first.compute_capability, last.compute_capability) == ("9.0", "")


def test_a_gpu_that_does_not_tell_its_temperature_and_load_is_offered_all_the_same() -> None:
    first, last, cpu = inventory(nvml=RecordedNvml("h100_and_troubles")).read_devices()
    assert (first.temperature_c, first.load_ratio) == (39, 0.12)
    assert (last.temperature_c, last.load_ratio) == (None, None)
    assert (cpu.temperature_c, cpu.load_ratio) == (None, None)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, []),  # no NVIDIA driver: nothing to say
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, []),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, ["RM has detected an NVML/RM version mismatch."]),
    ],
)
def test_a_host_without_a_working_nvml_has_its_cpu(code: int, said: list[str]) -> None:
    with capture_logs() as logs:
        devices = inventory(nvml=FailingNvml(code)).read_devices()
    assert [device.id for device in devices] == ["cpu"]
    assert [entry["reason"] for entry in logs] == said


@pytest.mark.parametrize(
    ("pid", "used"),
    [
        (4242, {"gpu0": 1_050_673_152, "gpu1": 338_690_048}),
        (4343, {}),  # the driver does not say how much
        (1, {}),
    ],
)
def test_what_a_process_holds_on_each_gpu(pid: int, used: dict[str, int]) -> None:
    nvml = RecordedNvml("two_rtx_3090")
    assert inventory(nvml=nvml).used_by(pid) == used
    assert nvml.open == 0


def test_what_a_process_holds_where_the_driver_does_not_tell() -> None:
    assert inventory(nvml=RecordedNvml("h100_and_troubles")).used_by(4242) == {"gpu0": 534_773_760}
    assert inventory(nvml=FailingNvml(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)).used_by(4242) == {}


def test_an_offer_leaves_the_rest_to_others() -> None:
    host = inventory(offers={"cpu": 60 * GIB, "gpu0": 23 * GIB, "gpu1": 0})
    first, second, cpu = host.read_devices()
    assert (cpu.total, cpu.used, cpu.reserve) == (60 * GIB, 6 * GIB, 0)
    assert (first.total, first.used, first.reserve) == (23 * GIB, 1_400_897_536 - 1 * GIB, 0)
    assert (second.total, second.used, second.reserve) == (0, 0, 0)


def test_a_reserve_that_was_asked_for_counts_with_and_without_an_offer() -> None:
    host = inventory(offers={"cpu": 8 * GIB}, reserves=Reserves(ram=1 * GIB, vram=3 * GIB))
    assert [device.reserve for device in host.read_devices()] == [3 * GIB, 3 * GIB, 1 * GIB]


def test_a_small_hosts_reserve_is_a_tenth() -> None:
    memory = HostMemory(total=4000 * MIB, used=0)
    *_, cpu = inventory(read_memory=lambda: memory).read_devices()
    assert cpu.reserve == 400 * MIB


@pytest.mark.parametrize(
    ("offers", "message"),
    [
        ({"gpu2": GIB}, "--offer gpu2=…: no such device for this engine; there are: gpu0, gpu1, cpu"),
        ({"cpu": 65 * GIB}, "--offer cpu=65 GiB: cpu has 64 GiB only"),
    ],
)
def test_an_offer_of_what_is_not_there_is_refused(offers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        inventory(offers=offers)
    assert str(raised.value) == message


@given(
    total=st.integers(0, 2**40),
    used=st.integers(0, 2**40),
    offer=st.none() | st.integers(0, 2**40),
    reserve=st.integers(0, 2**30),
)
def test_what_is_offered_and_free_is_never_more_than_what_is_free(
    total: int, used: int, offer: int | None, reserve: int
) -> None:
    used = min(used, total)
    offer = None if offer is None else min(offer, total)
    device = limited(Device(id="cpu", kind=DeviceKind.CPU, total=total, used=used), offer, reserve)
    assert device.total - device.used <= total - used
    assert 0 <= device.used <= device.total == (total if offer is None else offer)
    assert device.reserve == reserve


def gpu(index: int, uuid: str) -> GpuReading:
    """A reading where only its names matter."""
    return GpuReading(index=index, uuid=uuid, name="", total=1, used=0)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("0,1,2", [0, 1, 2]),
        ("2, 0", [2, 0]),
        ("-1", []),
        ("1,9,0", [1]),  # the first that is none ends the list
        ("1,1", [1]),
        ("GPU-aa1", [0]),
        ("GPU-b,GPU-aa2", [2, 1]),
        ("GPU-aa", []),  # of two GPUs
        ("aa1", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus(visible: str | None, indices: list[int]) -> None:
    gpus = [gpu(0, "GPU-aa1"), gpu(1, "GPU-aa2"), gpu(2, "GPU-b")]
    assert [one.index for one in visible_gpus(gpus, visible)] == indices


def test_this_host_can_be_read() -> None:
    *_, cpu = Inventory(frozenset()).read_devices()
    assert cpu.total > cpu.reserve > 0
