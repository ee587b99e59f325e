"""The OpenAI door at a steady load for a long time: whether memory stays flat, nothing fails, and nothing slows down.

First the most that one process on one core answers is measured (small requests, 64 connections). Then `--load` of that
is asked for `--minutes`, each request at its own time whoever waits, and beside it 8 paced streams one after the other.
Everything that users have on is on, as in `benchmarks.proxy`: every request becomes a row of the database.

Prints a line a sample to stderr, and ends with one JSON line: the samples; `memory_spread`, the largest distance of a
sample from the median as a share of it; `p99_growth`, the median of the last third's p99 as a multiple of the first's;
and the errors. The first tenth, in which caches fill, is in the samples but does not count.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path

from benchmarks.proxy import stage
from benchmarks.stage.door.asked import PACED_64, SMALL_64
from benchmarks.stage.door.programs import EVENTS, Measured, loading, run_load
from benchmarks.stage.door.proxies import Proxy
from stoker.domain.units import MIB

SAMPLES = 60
STREAMS = 8
_CAPACITY_SECONDS, _CAPACITY_WARMUP_SECONDS = 30.0, 10.0  # usage goes to the database all the while

Sample = dict[str, float]


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--load", type=float, default=0.8, help="share of the most that it answers")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the server, one for the load and the engine")
    with stage(["stoker"], cores) as ((_, proxy), folder):
        proxy.go_on()
        most = capacity(proxy, folder, cores[1])
        samples = soak(proxy, folder, cores[1], given.minutes * 60, given.load * most)
    counted = samples[len(samples) // 10 :]
    print(
        json.dumps(
            {
                "benchmark": "proxy_soak",
                "most_rps": most,
                "rps": given.load * most,
                **judged(counted),
                "samples": samples,
            }
        )
    )


def capacity(proxy: Proxy, folder: Path, core: int) -> float:
    """Small requests a second, at the most."""
    request = SMALL_64.write_request(folder, proxy.key)
    options = {"connections": SMALL_64.connections, "seconds": _CAPACITY_SECONDS, "warmup": _CAPACITY_WARMUP_SECONDS}
    return run_load(core, proxy.port, request, **options).rps


def soak(proxy: Proxy, folder: Path, core: int, seconds: float, rate: float) -> list[Sample]:
    """A sample for every window."""
    samples: list[Sample] = []
    window = max(1, round(seconds / SAMPLES))
    streams: list[Measured] = []
    asked = {"connections": STREAMS, "seconds": seconds, "events": EVENTS, "pause": PACED_64.pause, "window": window}
    paced = PACED_64.write_request(folder, proxy.key)
    beside = threading.Thread(target=lambda: streams.extend(loading(core, proxy.port, paced, **asked)))
    beside.start()
    try:
        request = SMALL_64.write_request(folder, proxy.key)
        options = {"connections": 2 * SMALL_64.connections, "seconds": seconds, "rate": rate, "window": window}
        began, used = time.monotonic(), proxy.cpu_seconds()
        for found in loading(core, proxy.port, request, **options):
            now, then = time.monotonic(), proxy.cpu_seconds()
            samples.append(sample(proxy, folder, found, streams, busy=(then - used) / (now - began)))
            began, used = now, then
            print(samples[-1], file=sys.stderr)
    finally:
        beside.join()
    return samples


def sample(proxy: Proxy, folder: Path, found: Measured, streams: list[Measured], *, busy: float) -> Sample:
    """One window's figures. Errors are those of the requests, and of the streams' windows that ended meanwhile."""
    rss, total = proxy.memory_mib()
    ended, streams[:] = list(streams), []
    return {
        "rps": found.rps,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
        "max_ms": found.max_ms,
        "stream_ttft_p99_ms": max((one.ttft_p99_ms for one in ended), default=0.0),
        "errors": found.errors + sum(one.errors for one in ended),
        "busy": round(busy, 3),
        "rss_mib": round(rss, 1),
        "total_rss_mib": round(total, 1),
        "database_mib": round(sum(file.stat().st_size for file in folder.glob("stoker/*.db*")) / MIB, 1),
    }


def judged(samples: list[Sample]) -> dict[str, float]:
    """What the samples say."""
    memory, p99 = [one["rss_mib"] for one in samples], [one["p99_ms"] for one in samples]
    middle, third = statistics.median(memory), max(1, len(samples) // 3)
    return {
        "errors": sum(one["errors"] for one in samples),
        "memory_mib": middle,
        "memory_spread": round(max(abs(one - middle) for one in memory) / middle, 4),
        "p50_ms": round(statistics.median(one["p50_ms"] for one in samples), 3),
        "p99_ms": round(statistics.median(p99), 3),
        "p99_growth": round(statistics.median(p99[-third:]) / statistics.median(p99[:third]), 3),
    }


if __name__ == "__main__":
    main()
