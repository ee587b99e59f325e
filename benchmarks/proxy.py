"""What Stoker's OpenAI door costs, side by side with nginx, which only passes bytes on, and with LiteLLM's proxy.

The load and the engine are programs in C on one core (`benchmarks/stage/door`), the proxy that is measured has the
other to itself: the rest are stopped meanwhile. Everything that Stoker's users have on is on: a key with every kind of
limit, routes, metering into a database, metrics. Each repeat measures every case of every proxy, one after the other;
the figures are the medians of the repeats, and only ratios between proxies of one run mean much on a shared machine.

Cases: NAME-CONNECTIONS. `small` and `long` (a prompt of 32 KB) are answered with one JSON object; `streams` with 100
chunks as fast as they are taken, each in a write of its own as llama-server writes them; `burst` with the same 100
chunks in one write; `paced` with a chunk every 20 ms, all of its streams begun within one such pause of one another;
`even` likewise, but 31 streams begin each second, one after the other. `direct` is the load on the engine itself,
which limits all.

Needs gcc; nginx and LiteLLM are fetched when they are missing (`apt-get download nginx`, `uv pip install litellm`).
Ends with one JSON line; times in milliseconds, `cpu_ms` a request, `rss_mib` of the process that answers, and
`total_rss_mib` with those beside it. `aims` says what of the ratios and limits that we hold ourselves to is reached.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn

from benchmarks.stage.door.aims import aims
from benchmarks.stage.door.asked import CASES, Case
from benchmarks.stage.door.programs import CHUNKS, EVENTS, PACE_MS, Measured, MissingError, run_load, upstream
from benchmarks.stage.door.proxies import Proxy, litellm, nginx
from benchmarks.stage.door.stoker_server import stoker
from tests.e2e.system import free_ports

PROXIES = {"nginx": nginx, "stoker": stoker, "litellm": litellm}
WARMUP_SECONDS = 2.0
"""A proxy stood still while the others were measured. Where the system pages out what nobody touches for seconds
(DAMON), it has to come back first: without, streams at a pace saw a p99 three times as high."""

_STREAM_SECONDS = CHUNKS * PACE_MS / 1000

Row = dict[str, object]


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    given = _arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load and the engine")
    began = time.monotonic()
    with stage(given.proxies, cores) as (proxies, folder):
        found = measure(proxies, given.cases, folder, cores[1], given.repeats, given.seconds)
    rows = [summary(proxy, case, runs) for (case, proxy), runs in found.items()]
    context = {
        "benchmark": "proxy",
        "cores": len(cores),
        "repeats": given.repeats,
        "seconds": given.seconds,
        "took_seconds": round(time.monotonic() - began),
        "load_average": round(os.getloadavg()[0], 2),
        "uvicorn": uvicorn.__version__,
    }
    print(json.dumps(context | {"aims": aims(rows), "results": rows}))


@contextmanager
def stage(names: Sequence[str], cores: Sequence[int], pace_ms: int = PACE_MS) -> Iterator[tuple[list[Proxy], Path]]:
    """The engine and the proxies in front of it, all stopped; and a folder."""
    with tempfile.TemporaryDirectory(prefix="stoker-proxy-") as name, ExitStack() as stack:
        folder = Path(name)
        engine, *ports = free_ports(1 + len(names))
        try:
            stack.enter_context(upstream(engine, cores[1], pace_ms))
            proxies = [Proxy("direct", engine)]
            for name, port in zip(names, ports, strict=True):
                proxies.append(stack.enter_context(PROXIES[name](folder, port, engine, cores[0])))
        except MissingError as error:
            sys.exit(str(error))
        for proxy in proxies:
            proxy.stop()
        yield proxies, folder


Found = dict[tuple[str, str], list[tuple[Measured, Row]]]


def measure(
    proxies: Sequence[Proxy], cases: Sequence[Case], folder: Path, core: int, repeats: int, seconds: float
) -> Found:
    """Every case of every proxy, `repeats` times, in turns."""
    found: Found = {}
    for repeat in range(repeats):
        for case in cases:
            for proxy in proxies:
                run = one(proxy, case, folder, core, seconds)
                found.setdefault((case.name, proxy.name), []).append(run)
                print(f"{repeat} {case.name} {proxy.name}: {run[0].rps:.0f}/s {run[1]}", file=sys.stderr)
    return found


def one(proxy: Proxy, case: Case, folder: Path, core: int, seconds: float) -> tuple[Measured, Row]:
    """One case of one proxy: what the load found, and what the proxy took."""
    request = case.write_request(folder, proxy.key)
    warmup = WARMUP_SECONDS + (_STREAM_SECONDS if case.paced else 0)  # streams have begun, and not all at once
    proxy.go_on()
    before, began = proxy.cpu_seconds(), time.monotonic()
    measured = run_load(
        core,
        proxy.port,
        request,
        connections=case.connections,
        seconds=seconds,
        warmup=warmup,
        events=EVENTS if case.stream else 0,
        pause=case.pause,
        rate=case.rate,
    )
    taken, used = time.monotonic() - began, proxy.cpu_seconds() - before
    rss, total = proxy.memory_mib()
    proxy.stop()
    if measured.errors:
        raise RuntimeError(f"{proxy.name}, {case.name}: {measured.errors} errors; the first: {measured.error}")
    per_second = used / taken
    return measured, {
        "cpu_ms": 1000 * per_second / measured.rps if measured.rps else 0.0,
        "busy": per_second,
        "rss_mib": rss,
        "total_rss_mib": total,
    }


def summary(proxy: str, case: str, runs: Sequence[tuple[Measured, Row]]) -> Row:
    """The medians."""
    values = [{**measured._asdict(), **row} for measured, row in runs]
    shown = ("rps", "ttft_p50_ms", "ttft_p99_ms", "cpu_ms", "rss_mib", "total_rss_mib", "busy")
    medians = {name: round(statistics.median(float(one[name]) for one in values), 3) for name in shown}
    return {"proxy": proxy, "case": case, **medians}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--only", default="", metavar="WORD,…", help="proxies and cases whose names hold one of these")
    given = parser.parse_args()
    words = [word for word in given.only.split(",") if word]
    given.proxies = [name for name in PROXIES if name in words] or list(PROXIES)
    wanted = [word for word in words if word not in PROXIES]
    given.cases = [case for case in CASES if not wanted or any(word in case.name for word in wanted)]
    if not given.cases:
        parser.error(f"--only {given.only}: the cases are {', '.join(case.name for case in CASES)}")
    return given


if __name__ == "__main__":
    main()
