"""`/metrics` of a server of several processes: the sum over all of them, whichever of them is asked.

Each process counts in its own memory: a count costs no lock, no file and no system call. Each second it writes what it
has counted into a file of its own, and before it shows anything. So the sum is a second old at most for what others
counted (ten with a hundred models), and never goes down: what was shown is in a file, also when its process is killed
a moment later.

A process holds a lock on a file for as long as it lives. Of one that has died what it counted stays in the sums, and
what it only had at that moment (requests running, queued) goes. The folder belongs to one start of the server.
"""

import asyncio
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

log = structlog.get_logger()

_EVERY_SECONDS = 1.0
_SHARE = 200  # so many times as long as a look took, the next one waits: half a per cent of a core at most
_COUNTED, _ALIVE, _ENDED, _LOCK = ".counted", ".alive", "ended.json", "lock"
_ADDED_UP = ("counter", "histogram", "summary")  # types that stay when their process has gone

Counted = dict[str, Any]
"""Metrics as JSON: by name their type, help and samples; a sample is its name, its labels and its value."""


class ProcessMetrics:
    """What one process counted, together with what its siblings did."""

    def __init__(self, registry: CollectorRegistry, folder: Path | None = None) -> None:
        """`registry` has what each process counts for itself. Without a folder there are no siblings."""
        self._registry, self._folder = registry, folder
        self._id = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._alive: int | None = None
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._alive = os.open(folder / f"{self._id}{_ALIVE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._alive, fcntl.LOCK_EX)

    def text(self) -> bytes:
        """The sums, as Prometheus reads them; of this process alone where the folder cannot be used. May block."""
        if self._folder is None:
            return generate_latest(self._registry)
        try:
            self._write(self._folder)
            with _locked(self._folder):
                everybody = added(self._everybody(self._folder))
        except (OSError, ValueError) as error:
            log.error("metrics_of_siblings_not_read", error=str(error))
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        registry.register(_Summed(everybody))
        return generate_latest(registry)

    async def run(self) -> None:
        """Keeps what this process counted on file, until cancelled."""
        while self._folder is not None:
            began, took = time.perf_counter(), 0.0
            try:
                await asyncio.to_thread(self._write, self._folder)
                took = time.perf_counter() - began
            except OSError as error:
                log.warning("metrics_not_written", error=str(error))
            except Exception:  # the last guard: a file that is written no more shows for ever what was
                log.exception("metrics_writing_crashed")
            await asyncio.sleep(max(_EVERY_SECONDS, took * _SHARE))

    def close(self) -> None:
        """What this process counted stays; what it has at the moment goes."""
        if self._folder is None or self._alive is None:
            return
        try:
            self._write(self._folder)
        except OSError as error:
            log.warning("metrics_not_written", error=str(error))
        os.close(self._alive)
        self._alive = None

    def _write(self, folder: Path) -> None:
        scratch = folder / f"{self._id}.new-{uuid.uuid4().hex[:8]}"  # two threads may write at once
        scratch.write_text(_as_json(_counted(self._registry.collect())))
        scratch.rename(folder / f"{self._id}{_COUNTED}")

    def _everybody(self, folder: Path) -> list[Counted]:
        """What each counted; that of the dead becomes one file, so that there are never more than there were processes
        at once."""
        ended = _read(folder / _ENDED) or {"ids": [], "counted": {}}
        living: list[Counted] = []
        dead: dict[str, Counted] = {}
        for path in sorted(folder.glob(f"*{_COUNTED}")):
            counted = _read(path)
            if counted is None or path.stem in ended["ids"]:  # added up already, by one that died before it was removed
                continue
            if path.stem == self._id or _is_alive(path.with_suffix(_ALIVE)):
                living.append(counted)
            else:
                dead[path.stem] = _without_the_moment(counted)
        if dead:
            total = added([ended["counted"], *dead.values()])
            scratch = folder / f"{_ENDED}.new"
            scratch.write_text(_as_json({"ids": [*ended["ids"], *dead], "counted": total}))
            scratch.rename(folder / _ENDED)
            ended["counted"] = total
            for name in dead:
                (folder / f"{name}{_COUNTED}").unlink()
                with suppress(FileNotFoundError):
                    (folder / f"{name}{_ALIVE}").unlink()
        return [ended["counted"], *living]


class _Summed(Collector):
    """Metrics that are known already."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        for name, family in self._counted.items():
            metric = Metric(name, family["help"], family["type"])
            metric.samples = [Sample(sample, labels, value) for sample, labels, value in family["samples"]]
            yield metric


def added(several: Iterable[Counted]) -> Counted:
    """All together: values of the same name and labels are added up."""
    total: Counted = {}
    places: dict[tuple[str, str], list[Any]] = {}
    for counted in several:
        for name, family in counted.items():
            samples = total.setdefault(name, {"type": family["type"], "help": family["help"], "samples": []})["samples"]
            for sample, labels, value in family["samples"]:
                place = places.get(key := (sample, str(labels)))
                if place is None:
                    place = places[key] = [sample, labels, 0.0]
                    samples.append(place)
                place[2] += value
    return total


def _counted(metrics: Iterable[Metric]) -> Counted:
    return {
        metric.name: {
            "type": metric.type,
            "help": metric.documentation,
            "samples": [
                [sample.name, sample.labels, sample.value]
                for sample in metric.samples
                if not sample.name.endswith("_created")  # a moment: no sum of it says anything
            ],
        }
        for metric in metrics
    }


def _without_the_moment(counted: Counted) -> Counted:
    return {name: family for name, family in counted.items() if family["type"] in _ADDED_UP}


def _as_json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def _is_alive(path: Path) -> bool:
    """Whether its process holds the lock. Shared, so that two who look do not see each other."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time adds up."""
    file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
