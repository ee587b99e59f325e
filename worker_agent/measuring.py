"""What a main server took once it answers: its engine's own words from the log, and the host's and the driver's."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from stoker.domain.base import Bytes, DeviceId
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.measurements import MemoryMeasurement, read_measurement
from stoker.domain.units import KIB, MIB
from worker_agent.logs import oldest_part
from worker_agent.pids import resident_bytes

log = structlog.get_logger()

DeviceUse = Callable[[int], Mapping[DeviceId, Bytes]]
"""Bytes that the process of a pid holds on each device, as far as a driver tells. Blocks."""

_MEASURE_SECONDS = 2.0  # an instance is told to be ready only after it: no wait that anybody should notice
_LOAD_SECONDS = 0.5  # for the log to tell of the whole load: llama.cpp's is written by a thread of its own
_POLL_SECONDS = 0.02
_LOAD_BYTES = 1 * MIB  # of a log that are looked through: a load takes some 20 KiB
_LINE_BYTES = 64 * KIB  # held at once


def no_devices(_pid: int) -> Mapping[DeviceId, Bytes]:
    """Where no driver tells anything."""
    return {}


async def measure_memory(log_file: Path, pid: int, device_use: DeviceUse = no_devices) -> MeasuredMemory | None:
    """What the process of `pid`, which has just become ready and writes `log_file`, took.

    None, and why is logged, where the log does not name its buffers: it was turned over too often since, or it is
    another engine's, or its times go back. Never raises and never takes longer than 2 s.
    """
    found: MemoryMeasurement | None = None
    try:
        async with asyncio.timeout(_MEASURE_SECONDS):
            found = await _loaded(log_file)
            if found is not None:
                resident, used = await asyncio.to_thread(lambda: (resident_bytes(pid), dict(device_use(pid))))
                return MeasuredMemory(buffers=found.buffers, process_resident=resident, devices_used=used)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError: a driver that hangs, say
        log.warning("memory_not_measured", process=log_file.stem, error=repr(error))
    else:
        log.warning(
            "memory_not_measured", process=log_file.stem, error="its log names no buffers, or its times go back"
        )
    return MeasuredMemory(buffers=found.buffers) if found is not None else None


async def _loaded(log_file: Path) -> MemoryMeasurement | None:
    """What the log says of the load, once it is all there or there is no hope for the rest."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LOAD_SECONDS
    while True:
        found, whole = await asyncio.to_thread(read_load, oldest_part(log_file))
        if whole or loop.time() > deadline:
            return found
        await asyncio.sleep(_POLL_SECONDS)


def read_load(path: Path) -> tuple[MemoryMeasurement | None, bool]:
    """What the beginning of a log says of the load, and whether more of the log would say nothing more.

    A line at a time, and only as far as `read_measurement` wants: what requests make the server write once it listens
    must not be taken for its own words. Raises OSError.
    """
    whole = True

    def lines() -> Iterator[str]:
        nonlocal whole
        left, begins = _LOAD_BYTES, True
        with path.open("rb") as file:
            while left > 0:
                piece = file.readline(_LINE_BYTES)
                if not piece:
                    whole = False
                    return
                left -= len(piece)
                if begins:  # the rest of a line that is too long is no line
                    yield piece.decode(errors="replace")
                begins = piece.endswith(b"\n")

    found = read_measurement(lines())
    return found, whole
