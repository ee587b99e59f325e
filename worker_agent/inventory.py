"""The devices of this host and what is in use on them. The only module that talks to NVML."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pynvml
import structlog

from stoker.domain.base import Bytes, DeviceId, Value
from stoker.domain.units import GIB, MIB, format_bytes
from stoker.domain.workers import Device, DeviceKind
from worker_agent.limits import Reserves
from worker_agent.memory import HostMemory, read_host_memory

log = structlog.get_logger()

RESERVE_VRAM = 512 * MIB
"""Kept free of each GPU by default: a desktop's windows grow, and a full GPU fails whoever asks next. What an engine
needs beside the model (CUDA context) is part of its claim, not of this."""


class GpuReading(Value):
    """One NVIDIA GPU as NVML sees it. `used` is what cannot be had: the driver's own share included."""

    index: int  # NVML's, by bus id
    uuid: str
    name: str
    total: Bytes
    used: Bytes
    compute_capability: str = ""  # like "8.6"; empty: the driver did not say
    temperature_c: int | None = None  # None: the driver does not say
    load_ratio: float | None = None  # of the driver's last sampling period (up to a second), 0 to 1


class Inventory:
    """Reads the host's devices, whole or as far as they are offered."""

    def __init__(
        self,
        engine_devices: frozenset[str],
        *,
        offers: Mapping[DeviceId, int] | None = None,
        reserves: Reserves | None = None,
        environment: Mapping[str, str] = os.environ,
        nvml: Any = pynvml,
        read_memory: Callable[[], HostMemory] = read_host_memory,
    ) -> None:
        """`engine_devices`: llama.cpp's names of the accelerators that the engine can use (`EngineProgram`).

        `nvml`: the module, or what answers like it. Reads the devices once, and raises ValueError for an offer of one
        that is not there or of more than it has.
        """
        self._engine_devices = engine_devices
        self._offers = dict(offers or {})
        self._reserves = reserves or Reserves()
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")
        self._nvml = nvml
        self._read_memory = read_memory
        self._said: set[str] = set()
        there = {device.id: device for device in self._whole_devices()}
        for name, size in self._offers.items():
            if name not in there:
                raise ValueError(f"--offer {name}=…: no such device for this engine; there are: {', '.join(there)}")
            if size > there[name].total:
                had = format_bytes(there[name].total)
                raise ValueError(f"--offer {name}={format_bytes(size)}: {name} has {had} only")

    def read_devices(self) -> tuple[Device, ...]:
        """The devices now: GPUs in the engine's order, then the CPU. Blocks for some milliseconds."""
        return tuple(
            limited(device, self._offers.get(device.id), self._reserve(device)) for device in self._whole_devices()
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """Why some of this host's GPUs are left out, as far as it was found by now."""
        return tuple(sorted(self._said))

    def used_by(self, pid: int) -> dict[DeviceId, Bytes]:
        """Bytes that the process of `pid` holds on each GPU, the driver's context included. Blocks for milliseconds.

        Without those where it holds nothing, and without all that the driver does not tell of: in a container it may
        know processes by the host's pids only.
        """
        try:
            self._nvml.nvmlInit()
        except pynvml.NVMLError:
            return {}
        try:
            used = {f"gpu{index}": self._used_on(index, pid) for index in range(self._nvml.nvmlDeviceGetCount())}
        except pynvml.NVMLError:
            return {}
        finally:
            self._nvml.nvmlShutdown()
        return {device: size for device, size in used.items() if size}

    def _used_on(self, index: int, pid: int) -> int:
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._nvml.nvmlDeviceGetHandleByIndex(index))
        except pynvml.NVMLError:  # this driver does not tell, or the GPU is lost, which the report says
            return 0
        return sum(process.usedGpuMemory or 0 for process in processes if process.pid == pid)

    def _whole_devices(self) -> list[Device]:
        gpus = visible_gpus(self._read_gpus(), self._visible)
        devices = [
            Device(
                id=f"gpu{gpu.index}",
                kind=DeviceKind.CUDA,
                name=gpu.name,
                total=gpu.total,
                used=gpu.used,
                uuid=gpu.uuid,
                engine_name=f"CUDA{position}",
                compute_capability=gpu.compute_capability,
                temperature_c=gpu.temperature_c,
                load_ratio=gpu.load_ratio,
            )
            for position, gpu in enumerate(gpus)
        ]
        usable = [device for device in devices if device.engine_name in self._engine_devices]
        if len(usable) < len(devices):
            left_out = ", ".join(f"{device.id} ({device.name})" for device in devices if device not in usable)
            self._say_once(
                "gpus_not_offered", f"{left_out}: this host's engine is built without CUDA or cannot see them"
            )
        memory = self._read_memory()
        return [*usable, Device(id="cpu", kind=DeviceKind.CPU, name=_cpu_name(), total=memory.total, used=memory.used)]

    def _reserve(self, device: Device) -> int:
        """What to keep free: as told, else nothing of an offer, which leaves the rest of the device to others."""
        on_cpu = device.kind is DeviceKind.CPU
        told = self._reserves.ram if on_cpu else self._reserves.vram
        if told is not None:
            return told
        if device.id in self._offers:
            return 0
        return min(2 * GIB, device.total // 10) if on_cpu else RESERVE_VRAM

    def _read_gpus(self) -> list[GpuReading]:
        """All NVIDIA GPUs that can be read. One that cannot is left out, and why is logged once."""
        try:
            self._nvml.nvmlInit()
        except pynvml.NVMLError as error:
            if not isinstance(error, pynvml.NVMLError_LibraryNotFound | pynvml.NVMLError_DriverNotLoaded):
                self._say_once("nvml_failed", str(error))
            return []
        try:
            count = self._nvml.nvmlDeviceGetCount()
            readings = [self._read_gpu(index) for index in range(count)]
        except pynvml.NVMLError as error:
            self._say_once("nvml_failed", str(error))
            return []
        finally:
            self._nvml.nvmlShutdown()
        return [reading for reading in readings if reading is not None]

    def _read_gpu(self, index: int) -> GpuReading | None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            if self._in_mig_mode(handle):
                self._say_once("gpu_left_out", f"gpu{index} is split by MIG, which Stoker does not use yet")
                return None
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            return GpuReading(
                index=index,
                uuid=self._nvml.nvmlDeviceGetUUID(handle),
                name=self._nvml.nvmlDeviceGetName(handle),
                total=memory.total,
                used=memory.total - memory.free,
                compute_capability=self._compute_capability(handle),
                temperature_c=self._temperature(handle),
                load_ratio=self._load(handle),
            )
        except pynvml.NVMLError as error:
            self._say_once("gpu_left_out", f"gpu{index} cannot be read: {error}")
            return None

    def _compute_capability(self, handle: Any) -> str:
        try:
            major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(handle)
        except pynvml.NVMLError:  # the GPU can be used all the same, where none is asked for
            return ""
        return f"{major}.{minor}"

    def _temperature(self, handle: Any) -> int | None:
        try:
            return int(self._nvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        except pynvml.NVMLError:
            return None

    def _load(self, handle: Any) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except pynvml.NVMLError:
            return None

    def _in_mig_mode(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except pynvml.NVMLError_NotSupported:
            return False

    def _say_once(self, event: str, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.warning(event, reason=reason)


def limited(device: Device, offer: int | None, reserve: int) -> Device:
    """The device with `reserve` bytes kept free and, with an offer, no more of it than was offered.

    Of an offered part, only that counts as in use which others take beyond the part that was not offered.
    """
    if offer is None:
        return device.model_copy(update={"reserve": reserve})
    used = max(0, device.used - (device.total - offer))
    return device.model_copy(update={"total": offer, "used": used, "reserve": reserve})


def visible_gpus(gpus: Sequence[GpuReading], visible: str | None) -> list[GpuReading]:
    """Those that CUDA would show for a value of CUDA_VISIBLE_DEVICES, in its order: None shows all.

    Entries are indices or (the beginnings of) UUIDs; as in CUDA, the first entry that names no GPU ends the list.
    """
    if visible is None:
        return list(gpus)
    chosen: list[GpuReading] = []
    for entry in (entry.strip() for entry in visible.split(",")):
        if entry.isdigit():
            matches = [gpu for gpu in gpus if gpu.index == int(entry)]
        else:
            matches = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen.append(matches[0])
    return chosen


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
