"""When a large model is placed behind a stream of small ones, with and without the hold against starvation.

The real ledger on a SQLite file, and a clock that this program moves. Each small model lives for a fixed time, and
whenever none of them waits, the next one comes: without a hold, the room that one leaves goes to the one that waits.
A release and who is woken by it follow each other as in the workflows. Ends with one JSON line, in virtual seconds.
"""

import argparse
import heapq
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stoker.domain.deployments import EngineOptions
from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS
from stoker.domain.placement.types import Placement, PlacementRequest
from stoker.domain.units import GIB, MIB, format_bytes
from stoker.domain.workers import Device, DeviceKind, Worker
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.migrate import migrate
from stoker.storage.workers import Workers
from tests.builders import make_device, make_layer, make_profile, make_request, make_spec, make_worker

LIFE_SECONDS = 900.0
HOURS_WITHOUT_HOLD = 8.0
NO_HOLD_SECONDS = 100 * 365 * 86_400.0
"""Longer than any run: nobody ever reserves a device."""

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
OPTIONS = EngineOptions(context_length=2048, slots=1)
SMALL_LAYER = 275 * MIB  # 32 of them: about 10 GiB in all
LARGE = "large-0"


@dataclass(frozen=True)
class Case:
    """A fleet, and the layers of the large model that is to find a place in it."""

    name: str
    workers: tuple[Worker, ...]
    large_layer: int  # bytes, of 80 layers

    @property
    def devices(self) -> int:
        """GPUs in the fleet."""
        return sum(device.kind is not DeviceKind.CPU for worker in self.workers for device in worker.devices)


@dataclass(frozen=True)
class Outcome:
    """What became of the large model. Seconds since it arrived."""

    placed_after: float | None  # None: not while it was looked at
    placement: Placement | None
    releases_after_hold: int  # until it was placed, on the devices that it got
    small_placed: int  # since it arrived
    small_size: int  # bytes that a small one claims
    decision_seconds: float  # real time that the ledger took, all calls together


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulates, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hold-seconds", type=float, default=PENDING_HOLD_SECONDS)
    parser.add_argument("--life-seconds", type=float, default=LIFE_SECONDS, help="of each small model")
    parser.add_argument("--hours", type=float, default=HOURS_WITHOUT_HOLD, help="virtual time to look without a hold")
    chosen = parser.parse_args(arguments)
    for flag in ("hold_seconds", "life_seconds", "hours"):
        if getattr(chosen, flag) <= 0:
            parser.error(f"--{flag.replace('_', '-')} must be above 0")
    hold, life = chosen.hold_seconds, chosen.life_seconds
    results = []
    for case in cases():
        # One that was never placed within the bound shows as such: it is looked at for twice that time.
        with_hold = simulated(case, hold, life, look_seconds=2 * (hold + life))
        without = simulated(case, NO_HOLD_SECONDS, life, look_seconds=3600 * chosen.hours)
        results.append(result(case, hold, life, with_hold, without))
        print(line(results[-1], with_hold), flush=True)
    summary = {"hold_seconds": hold, "life_seconds": life, "hours_without_hold": chosen.hours}
    print(json.dumps({"benchmark": "starvation", **summary, "results": results}))


def cases() -> tuple[Case, ...]:
    """The fleets, all of 80 GiB devices."""
    four = (host("box-1", 2), host("box-2", 2))
    return (
        Case("one device", (host("box-1", 1),), large_layer=870 * MIB),
        Case("four devices on two workers", four, large_layer=870 * MIB),
        Case("four devices on two workers, two are needed", four, large_layer=1740 * MIB),
    )


def host(name: str, gpus: int) -> Worker:
    """A worker with so many 80 GiB GPUs and 1 TiB of RAM, without RPC."""
    devices: list[Device] = [
        make_device(id=f"gpu{number}", total=80 * GIB, engine_name=f"CUDA{number}") for number in range(gpus)
    ]
    return make_worker(name=name, devices=(*devices, make_device(kind=DeviceKind.CPU, total=1024 * GIB)))


def simulated(case: Case, hold: float, life: float, *, look_seconds: float) -> Outcome:
    """The fleet fills up with small models; then the large one arrives, and is looked at for that long at most."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), case) as database:
        stream = Stream(database, hold, life)
        stream.fill()
        return stream.run(large_request(case), look_seconds)


@contextmanager
def opened(folder: Path, case: Case) -> Iterator[Database]:
    """A database in which the case's workers have joined."""
    database = Database(f"sqlite:///{folder / 'stoker.db'}")
    try:
        migrate(database)
        with database.write() as session:
            # Seen in the far future: no agent reports here, and none of these shall ever fall silent.
            workers = Workers(session, BEGIN + timedelta(days=100 * 365))
            for worker in case.workers:
                workers.join(worker, credential_hash="", engine_secret="")
        yield database
    finally:
        database.close()


class Stream:
    """Small models that come, live and go, one always waiting; and the large one behind them."""

    def __init__(self, database: Database, hold: float, life: float) -> None:
        self._database, self._hold, self._life = database, hold, life
        self._seconds = 0.0  # since BEGIN
        self._ledger = ClaimLedger(database, self._clock, pending_hold=hold)
        self._numbers = itertools.count()
        self._waiting: dict[str, PlacementRequest] = {}
        self._ends: list[tuple[float, str]] = []  # a heap
        self._placements: dict[str, Placement] = {}
        self._small_placed, self._small_size = 0, 0
        self._real_seconds = 0.0

    def _clock(self) -> datetime:
        return BEGIN + timedelta(seconds=self._seconds)

    def fill(self) -> None:
        """Small ones come until one has to wait. They end one by one, evenly over one life."""
        while not self._waiting:
            self._ask(small_request(next(self._numbers)))
        running = list(self._placements)
        self._small_size = gpu_bytes(self._placements[running[0]])
        self._ends = [(self._life * (n + 1) / len(running), one) for n, one in enumerate(running)]

    def run(self, large: PlacementRequest, look_seconds: float) -> Outcome:
        """From the moment that the large one arrives until it is placed, or was looked at for so long."""
        arrived = self._seconds = self._life / (2 * len(self._ends))  # between two ends
        self._small_placed = 0
        self._ask(large)
        released_after_hold: list[Placement] = []
        while large.instance_id in self._waiting and self._ends[0][0] <= arrived + look_seconds:
            self._seconds, ended = heapq.heappop(self._ends)
            if self._seconds > arrived + self._hold:
                released_after_hold.append(self._placements[ended])
            self._release(ended)
        placement = self._placements.get(large.instance_id)
        return Outcome(
            placed_after=None if placement is None else self._seconds - arrived,
            placement=placement,
            releases_after_hold=sum(overlap(placement, one) for one in released_after_hold) if placement else 0,
            small_placed=self._small_placed,
            small_size=self._small_size,
            decision_seconds=self._real_seconds,
        )

    def _release(self, ended: str) -> None:
        """What the end of an instance's workflow does, and then what those that it wakes do."""
        began = time.monotonic()
        woken = self._ledger.release(ended, 1)
        self._real_seconds += time.monotonic() - began
        del self._placements[ended]
        with self._database.write() as session:
            Instances(session, self._clock()).remove(ended)
        for instance_id in woken:
            self._ask(self._waiting[instance_id])
        while not any(one != LARGE for one in self._waiting):
            self._ask(small_request(next(self._numbers)))

    def _ask(self, request: PlacementRequest) -> None:
        began = time.monotonic()
        outcome = self._ledger.place(request)
        self._real_seconds += time.monotonic() - began
        if not isinstance(outcome, Placement):
            self._waiting[request.instance_id] = request
            return
        self._waiting.pop(request.instance_id, None)
        self._placements[request.instance_id] = outcome
        if request.instance_id != LARGE:
            self._small_placed += 1
            heapq.heappush(self._ends, (self._seconds + self._life, request.instance_id))


def small_request(number: int) -> PlacementRequest:
    """A model of about 10 GiB."""
    profile = make_profile(layers=(make_layer(weights=SMALL_LAYER),) * 32)
    return make_request(instance_id=f"small-{number}", spec=make_spec(name="small", options=OPTIONS), profile=profile)


def large_request(case: Case) -> PlacementRequest:
    """The case's model of 80 layers."""
    profile = make_profile(layers=(make_layer(weights=case.large_layer),) * 80)
    return make_request(instance_id=LARGE, spec=make_spec(name="large", options=OPTIONS), profile=profile)


def overlap(one: Placement, other: Placement) -> bool:
    """Whether they use a device in common, RAM apart."""
    return not devices_of(one).isdisjoint(devices_of(other))


def gpu_bytes(placement: Placement) -> int:
    """What it claims of devices, RAM apart."""
    return sum(share.claim for share in placement.offloaded)


def devices_of(placement: Placement) -> set[tuple[str, str]]:
    """The devices that hold its layers."""
    return {(placement.worker_of(share), share.device) for share in placement.offloaded}


def result(case: Case, hold: float, life: float, with_hold: Outcome, without: Outcome) -> dict[str, Any]:
    """One case's numbers. Raises RuntimeError when the hold did not do what it is for."""
    placed = with_hold.placed_after
    if placed is None or placed > hold + life or with_hold.placement is None:
        raise RuntimeError(f"{case.name}: placed after {placed} s, and the hold with one life is {hold + life} s")
    return {
        "case": case.name,
        "devices": case.devices,
        "large_bytes": gpu_bytes(with_hold.placement),
        "small_bytes": with_hold.small_size,
        "placed_after_seconds": round(placed, 1),
        "last_release_after_hold_seconds": round(max(0.0, placed - hold), 1),
        "releases_after_hold": with_hold.releases_after_hold,
        "small_placed_meanwhile": with_hold.small_placed,
        "without_hold_placed_after_seconds": without.placed_after,
        "without_hold_small_placed": without.small_placed,
    }


def line(shown: dict[str, Any], outcome: Outcome) -> str:
    """One case for people."""
    without = shown["without_hold_placed_after_seconds"]
    return (
        f"{shown['case']}: {format_bytes(shown['large_bytes'])} behind small ones of "
        f"{format_bytes(shown['small_bytes'])} placed after {shown['placed_after_seconds']:.0f} s, with the release "
        f"{shown['last_release_after_hold_seconds']:.0f} s after the hold began ({shown['releases_after_hold']} on its "
        f"devices); {shown['small_placed_meanwhile']} small ones were placed meanwhile, in "
        f"{outcome.decision_seconds:.1f} s of real time. Without a hold: "
        f"{'never' if without is None else f'after {without:.0f} s'}, {shown['without_hold_small_placed']} small ones"
    )


if __name__ == "__main__":
    main()
