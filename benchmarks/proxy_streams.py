"""Many streams at once through one process of the OpenAI door: whether all complete, when they begin, what they cost.

Each of `--streams` clients asks once, all within `--within` seconds, and gets 100 chunks, one every `--pace` ms: they
all run at once. The same load goes straight to the engine first: what it says of itself then is the floor. The
server has 1,024 open files to begin with, as a login gives it.

Ends with one JSON line: streams completed, errors, time to the first token (ms; p50, p99), how long the last chunk took
over what the engine's pace alone takes (p50, p99), and resident memory a stream (KiB), at the peak.
"""

import argparse
import json
import os
import resource
import sys
import threading

from benchmarks.proxy import stage
from benchmarks.stage.door.asked import PACED_MODEL, Case
from benchmarks.stage.door.programs import EVENTS, Measured, run_load
from benchmarks.stage.door.proxies import Proxy

FILES = 1024
LIMIT_SECONDS = 60.0
WARM_STREAMS = 64
_LOOK_SECONDS = 0.05


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--within", type=float, default=1.0, help="seconds in which all of them begin")
    parser.add_argument("--pace", type=int, default=100, help="milliseconds from one chunk of a stream to the next")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the server, one for the load and the engine")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with stage(["stoker"], cores, given.pace) as (proxies, folder):
        found = {}
        for proxy in proxies:
            proxy.go_on()
            for streams in (WARM_STREAMS, given.streams):  # the first pays for what is made once
                case = Case("streams", streams, PACED_MODEL, stream=True, pause=1000 * given.within)
                request = case.write_request(folder, proxy.key)
                before = proxy.memory_mib()[0]
                with Peak(proxy) as peak:
                    measured = run_load(
                        cores[1],
                        proxy.port,
                        request,
                        connections=streams,
                        seconds=LIMIT_SECONDS,
                        events=EVENTS,
                        pause=case.pause,
                        once=1,
                    )
            found[proxy.name] = {**figures(measured, given.streams), "rss_before_mib": round(before, 1)}
            found[proxy.name]["rss_peak_mib"] = round(peak.mib, 1)
            found[proxy.name]["kib_per_stream"] = round(1024 * (peak.mib - before) / given.streams, 1)
    print(json.dumps({"benchmark": "proxy_streams", "streams": given.streams, "pace_ms": given.pace, **found}))


class Peak:
    """A proxy's highest resident memory (MiB) while the block lasts."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self.mib = proxy, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.mib = max(self.mib, self._proxy.memory_mib()[0])


def figures(measured: Measured, streams: int) -> dict[str, object]:
    """What the load found."""
    return {
        "completed": measured.requests,
        "errors": streams - measured.requests,
        "error": measured.error,
        "ttft_p50_ms": measured.ttft_p50_ms,
        "ttft_p99_ms": measured.ttft_p99_ms,
        "p50_ms": measured.p50_ms,
        "p99_ms": measured.p99_ms,
    }


if __name__ == "__main__":
    main()
