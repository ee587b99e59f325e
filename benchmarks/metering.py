"""What it costs to know what a request used.

- On the hot path: a request's metrics and its record, beside what prometheus_client's own objects would take, alone and
  in their mode for several processes.
- Behind it: the CPU of one record on its way into the database, its hour's sums with it, and into the spool.
- How long an event loop waits for its turn while a second's records of a busy process are written by another thread.

Ends with one JSON line. Times are microseconds if they do not say otherwise.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from api.openai.metering import Metrics, Usage
from api.usage.recorder import LARGEST_BATCH, UsageRecorder
from api.usage.spool import Spool
from benchmarks.stage.postgres import postgresql
from entrypoints.clock import utc_now
from stoker.domain.usage import UsageRecord
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from stoker.storage.usage_writing import Batch, write_batches

RECORDS = 5_000
BUSY = 10_000  # records of one second
REPEATS = 5

_REFERENCE = """
import timeit
from prometheus_client import Counter, Histogram
count, seconds = Counter("x", "x", ["m"]).labels("m"), Histogram("y", "y", ["m"]).labels("m")
for measured in (lambda: count.inc(), lambda: seconds.observe(0.2)):
    print(min(timeit.repeat(measured, number=20_000, repeat=5)) / 20_000 * 1e6)
"""


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        result: dict[str, object] = {"benchmark": "metering", **hot_path(folder), **references(folder)}
        result["spool"] = spooled(folder)
        result["loop_wait_p99_ms"] = waits = {"idle": loop_waits(lambda: time.sleep(1))}
        with postgresql(folder / "postgresql") as (url, _):
            for name, address in (("sqlite", f"sqlite:///{folder / 'stoker.db'}"), ("postgresql", url)):
                database = Database(address)
                migrate(database)
                result[name] = written(database)
                waits[name] = loop_waits(write_busy(database))
                database.close()
    print(json.dumps(result))


def record(number: int) -> UsageRecord:
    """One of a second's."""
    return UsageRecord(
        time.time(),
        "0123456789ab",
        "smol",
        "smol",
        "smol-a1b2c",
        "/chat/completions",
        200,
        True,
        number % 900,
        64,
        9,
        0.1,
        1.1,
    )


def hot_path(folder: Path) -> dict[str, float]:
    """A small request and a stream: from the beginning of its meter to its record."""
    database = Database(f"sqlite:///{folder / 'none.db'}")
    recorder = UsageRecorder(database, folder / "usage", utc_now, most_in_memory=10**9)
    metrics = Metrics(CollectorRegistry(), time.monotonic, recorder)
    used = Usage(30, 5, 10)

    def request(streamed: bool) -> None:
        meter = metrics.begin("m", 0.0, asked="m", key_id="k", path="/chat/completions", streamed=streamed)
        meter.instance_id = "m-1"
        if streamed:
            meter.first_token()
        meter.usage, meter.status = used, 200
        meter.end()

    return {"request": best(lambda: request(False)), "stream": best(lambda: request(True))}


def best(measured: Callable[[], object]) -> float:
    """Of some runs the fastest."""
    return round(min(timeit.repeat(measured, number=20_000, repeat=REPEATS)) / 20_000 * 1e6, 2)


def references(folder: Path) -> dict[str, list[float]]:
    """prometheus_client's inc and observe, in a process of its own: its mode is chosen as it is imported."""
    found = {}
    for name, more in (("prometheus_client", {}), ("multiprocess_mode", {"PROMETHEUS_MULTIPROC_DIR": str(folder)})):
        command = [sys.executable, "-c", _REFERENCE]
        told = subprocess.run(command, env={**os.environ, **more}, check=True, capture_output=True, text=True).stdout
        found[name] = [round(float(line), 2) for line in told.split()]
    return found


def written(database: Database) -> float:
    """The CPU of the writing thread, a record."""
    records = [record(number) for number in range(RECORDS)]
    costs = []
    for number in range(1, REPEATS + 1):
        began = time.thread_time()
        with database.write() as session:
            write_batches(session, "benchmark", [Batch(number, records)], utc_now())
        costs.append(time.thread_time() - began)
    return round(min(costs) / RECORDS * 1e6, 2)


def spooled(folder: Path) -> float:
    """The CPU of the thread that spools, a record."""
    spool = Spool(folder / "spool", 10**9)
    records = [record(number) for number in range(LARGEST_BATCH)]
    costs = []
    for number in range(1, REPEATS + 1):
        began = time.thread_time()
        spool.append(Batch(number, records))
        costs.append(time.thread_time() - began)
    spool.remove()
    return round(min(costs) / LARGEST_BATCH * 1e6, 2)


def write_busy(database: Database) -> Callable[[], None]:
    """What writes some busy seconds' records, in batches as the recorder makes them."""
    batches = BUSY // LARGEST_BATCH
    records = [record(number) for number in range(LARGEST_BATCH)]
    seconds = [[Batch(turn * batches + number, records) for number in range(batches)] for turn in range(1, REPEATS + 1)]

    def write() -> None:
        for numbered in seconds:
            with database.write() as session:
                write_batches(session, "busy", numbered, utc_now())

    return write


def loop_waits(work: Callable[[], object]) -> float:
    """By how much a loop's timers of a millisecond are late while a thread works: p99, in milliseconds."""

    async def watch() -> list[float]:
        late = []
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - began - 0.001)
        return late

    late = sorted(asyncio.run(watch()))
    return round(late[len(late) * 99 // 100] * 1000, 2)


if __name__ == "__main__":
    main()
