"""What the API's processes are like while something is done to the system."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import psutil

from stoker.domain.units import MIB
from tests.live.system import LiveSystem

SAMPLE_SECONDS = 2.0


@dataclass
class Sample:
    """The API at one moment: bytes of each of its processes, records of usage that wait, whether it answered that."""

    at: float
    memory: dict[int, int]
    waiting: float | None
    live: bool


class Watch:
    """Looks at the API's processes all the time, from a thread of its own."""

    def __init__(self, system: LiveSystem) -> None:
        self.samples: list[Sample] = []
        self._system = system
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            memory = {pid: size for pid in self._system.api_pids() if (size := _memory(pid))}
            waiting, live = None, False
            try:
                with httpx.Client(base_url=self._system.url, timeout=10, trust_env=False) as client:
                    live = client.get("/livez").is_success
                    waiting = metric(client.get("/metrics").raise_for_status().text, "stoker_usage_records_waiting")
            except httpx.HTTPError:
                pass
            self.samples.append(Sample(time.monotonic(), memory, waiting, live))

    def between(self, start: float, end: float) -> list[Sample]:
        """The samples of that time."""
        return [sample for sample in self.samples if start <= sample.at <= end]


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def metric(text: str, name: str) -> float | None:
    """The sum of a metric's series in Prometheus' text; None where there is none."""
    values = [float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(values) if values else None


def most(samples: Sequence[Sample]) -> list[float]:
    """MiB of each process at its largest, the largest first."""
    most: dict[int, int] = {}
    for sample in samples:
        for pid, size in sample.memory.items():
            most[pid] = max(size, most.get(pid, 0))
    return sorted((round(size / MIB, 1) for size in most.values()), reverse=True)
