"""How many placements a second go through the claiming transaction, when several control planes claim at once.

A real PostgreSQL, each control plane a process with a ledger of its own; every instance needs one GPU. Another process
takes the workers' reports meanwhile, as the API does. Ends with one JSON line: placements a second of all together,
milliseconds of each (p50, p99), those of it that a control plane computes (without PostgreSQL's), and how many devices
were booked beyond their size, which must be none.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from sqlmodel import Session, select

from benchmarks.deploy import percentile
from benchmarks.stage.postgres import postgresql
from entrypoints.clock import utc_now
from stoker.domain.claims import Snapshot
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, place
from stoker.domain.placement.types import Placement, PlacementRequest
from stoker.domain.units import GIB
from stoker.domain.workers import Worker
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.tables import ClaimRow
from stoker.storage.workers import Workers
from tests.builders import make_device, make_request, make_worker

DEVICE_BYTES = 24 * GIB
REPORT_EVERY_SECONDS = 5.0
STARTS_WITHIN_SECONDS = 120.0


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    arguments = _arguments()
    with empty_database() as url:
        joined(url, fleet(arguments.workers, arguments.devices), reporting=arguments.reports > 0)
        context = multiprocessing.get_context("spawn")
        start, stop = context.Barrier(arguments.processes + 1), context.Event()
        reporter = context.Process(
            target=report, args=(url, arguments.workers, arguments.devices, arguments.reports, stop)
        )
        reporter.start()
        with context.Manager() as manager:
            taken = manager.dict()
            share = arguments.placements // arguments.processes
            planes = [
                context.Process(target=claim, args=(url, number, share, start, taken))
                for number in range(arguments.processes)
            ]
            for plane in planes:
                plane.start()
            start.wait(STARTS_WITHIN_SECONDS)
            began = time.monotonic()
            for plane in planes:
                plane.join()
            seconds = time.monotonic() - began
            stop.set()
            reporter.join()
            times = [one for measured, _ in taken.values() for one in measured]
            used = sum(seconds for _, seconds in taken.values())
        result = {
            "benchmark": "claims",
            "processes": arguments.processes,
            "workers": arguments.workers,
            "devices": arguments.workers * arguments.devices,
            "reports_per_second": arguments.reports,
            "cores": os.cpu_count(),
            "placed": len(times),
            "per_second": round(len(times) / seconds, 1),
            "p50_ms": percentile(times, 50),
            "p99_ms": percentile(times, 99),
            "plane_cpu_ms": round(1000 * used / len(times), 2),
            "of_it_place_p50_ms": percentile(alone(fleet(arguments.workers, arguments.devices)), 50),
            **audit(url, len(times)),
        }
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="control planes at once")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=8, help="of 24 GiB, on each worker")
    parser.add_argument("--placements", type=int, default=4000, help="of all control planes together")
    parser.add_argument("--reports", type=int, default=200, help="of workers, a second; 0: none")
    return parser.parse_args()


@contextmanager
def empty_database() -> Iterator[str]:
    """A PostgreSQL server with our tables."""
    with tempfile.TemporaryDirectory() as folder, postgresql(Path(folder) / "postgresql") as (url, _):
        database = Database(url)
        migrate(database)
        database.close()
        yield url


def fleet(workers: int, devices: int) -> list[Worker]:
    """Equal workers with equal GPUs."""
    gpus = tuple(
        make_device(id=f"gpu{number}", engine_name=f"CUDA{number}", total=DEVICE_BYTES) for number in range(devices)
    )
    return [make_worker(name=f"w{number:05}", devices=gpus) for number in range(workers)]


def joined(url: str, workers: list[Worker], *, reporting: bool) -> None:
    """All of them join. Where none will report, it is as if they had just done so for an hour to come."""
    database, at = Database(url), utc_now() if reporting else utc_now() + timedelta(hours=1)
    with database.write() as session:
        for worker in workers:
            Workers(session, at).join(worker, credential_hash="", engine_secret="")
    database.close()


def claim(url: str, number: int, placements: int, start: Barrier, taken: dict[int, tuple[list[float], float]]) -> None:
    """One control plane: places one instance after the other.

    Leaves the milliseconds that each took, and the seconds of processor time that all of them took of its own.
    """
    database = Database(url)
    ledger = ClaimLedger(database, utc_now)
    content = make_request().model_dump_json()
    warm = PlacementRequest.model_validate_json(content).model_copy(update={"instance_id": f"warm-{number}"})
    ledger.place(warm)  # the first one reads the whole fleet
    ledger.release(warm.instance_id)
    start.wait(STARTS_WITHIN_SECONDS)
    times, before = [], time.process_time()
    for turn in range(placements):
        # Parsed each time, as an activity's input is: no two share their profile.
        request = PlacementRequest.model_validate_json(content)
        request = request.model_copy(update={"instance_id": f"llama-{number}-{turn}"})
        began = time.monotonic()
        outcome = ledger.place(request)
        times.append(1000 * (time.monotonic() - began))
        assert isinstance(outcome, Placement), outcome.summary
    taken[number] = times, time.process_time() - before
    database.close()


def alone(workers: list[Worker]) -> list[float]:
    """Milliseconds that the pure decision takes of it, on the same fleet."""
    whole, content, times = Fleet.of(Snapshot.of(workers, ())), make_request().model_dump_json(), []
    for turn in range(200):
        request = PlacementRequest.model_validate_json(content)
        began = time.monotonic()
        outcome = place(whole, request)
        times.append(1000 * (time.monotonic() - began))
        assert isinstance(outcome, Placement)
        whole = whole.plus(claims_of(outcome, str(turn), 1))
    return times


def report(url: str, workers: int, devices: int, per_second: int, stop: Event) -> None:
    """The API: every worker reports every five seconds, and says something new each time."""
    if not per_second:
        return
    database = Database(url)
    known = fleet(workers, devices)
    began, told = time.monotonic(), 0
    while not stop.is_set():
        worker = known[told % workers]
        used = (1 + told % 7) * GIB // 8
        changed = tuple(device.model_copy(update={"used": used}) for device in worker.devices)
        with database.write() as session:
            Workers(session, utc_now()).report(worker.model_copy(update={"devices": changed}))
        told += 1
        stop.wait(max(0.0, began + told / per_second - time.monotonic()))
    database.close()


def audit(url: str, placements: int) -> dict[str, int | bool]:
    """What the rows say afterwards."""
    database = Database(url)
    booked: Counter[tuple[str, str]] = Counter()
    with Session(database.engine) as session:
        claims = session.exec(select(ClaimRow)).all()
        for row in claims:
            booked[row.worker, row.device] += row.size
    database.close()
    return {
        "claims_are_placements": len(claims) == placements,
        "double_booked": sum(size > DEVICE_BYTES for size in booked.values()),
    }


if __name__ == "__main__":
    main()
