"""Kills a replica under load, again and again, and looks who noticed.

    python -m tests.failover_run [--rate 50] [--kills 5] [--replicas 3] [--model tiny|smollm2] [--folder FOLDER]

On this machine runs a real system: PostgreSQL, Temporal, the API in two processes, the control plane, an agent, and a
deployment with several replicas, each a llama-server of its own. With `tiny`, a model of random weights that answers
in milliseconds, two cores bear fifty requests a second; with `smollm2`, a real one, some five. Half of the requests
are streamed, and these are longer. Then one replica's process is killed (SIGKILL), each in its turn:

    lost               requests without a right answer: those that were streaming, and any others (0 wanted)
    moved              requests that had gone to it, or still went there, and that another replica answered
    asked for the last time   seconds from the kill until the door tried the dead one for the last time
    back               seconds from the kill until an answer of its successor

The last line is JSON; the exit code is 1 where a request was lost that was not being streamed, an answer was wrong, or
a replica did not come back. All that was started ends with the run.
"""

import argparse
import collections
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from tests.live.load import Asked, Load
from tests.live.long_run import run_folder
from tests.live.replicas_under_load import MODEL, add_options, is_streamed, is_streaming, make_turns, replicas
from tests.live.system import LiveSystem

BACK_WITHIN_SECONDS = 180.0
QUIET_SECONDS = 6.0  # of load after a replica is back: who has seen two die within seconds is told so, by design


@dataclass(frozen=True)
class Kill:
    """One replica that was killed; seconds are from the kill on, None: never."""

    instance: str
    streaming: int  # requests that were being streamed by any replica at the kill
    lost_streaming: int
    lost_others: int
    wrong: int
    moved: int
    last_tried: float  # 0: never again
    back: float | None


def kill(system: LiveSystem, load: Load, instance: dict[str, Any]) -> Kill:
    """Kills one, waits until it is back, and tells what happened meanwhile."""
    name = instance["id"]
    said_before = len(system.log("server"))
    began, wall = time.monotonic(), datetime.now(UTC)
    psutil.Process(instance["pid"]).kill()
    deadline, back = began + BACK_WITHIN_SECONDS, None
    while back is None and time.monotonic() < deadline:
        time.sleep(0.1)
        back = _answered_again(system, name, instance["incarnation"])
    time.sleep(QUIET_SECONDS)
    asked = [one for one in load.asked() if one.end >= began]
    tries = failures(system.log("server")[said_before:], name)
    return Kill(
        instance=name,
        streaming=sum(is_streamed(one) and one.start < began and (one.first_byte or began) < began for one in asked),
        lost_streaming=sum(one.lost and is_streaming(one) for one in asked),
        lost_others=sum(one.lost and not is_streaming(one) for one in asked),
        wrong=sum(not one.right and not one.lost for one in asked),
        moved=len(tries),
        last_tried=round(max(((moment - wall).total_seconds() for moment in tries), default=0.0), 2),
        back=None if back is None else round((back - wall).total_seconds(), 2),
    )


def _answered_again(system: LiveSystem, name: str, incarnation: int) -> datetime | None:
    """When the successor's first answer was whole; None: there is none yet."""
    found = [one for one in system.running(MODEL) if one["id"] == name and one["incarnation"] > incarnation]
    if not found:
        return None
    first = "SELECT min(ended_at) AS first FROM usage WHERE status = 200 AND instance_id = :name AND ended_at > :since"
    [row] = system.rows(first, name=name, since=datetime.fromisoformat(found[0]["state_since"]))
    ended: datetime | None = row["first"]
    return ended


def failures(log: str, instance: str) -> list[datetime]:
    """When the door found that the instance gave no answer: each of these requests was moved, or broke off."""
    found = []
    for line in log.splitlines():
        if '"engine_failed"' in line and f'"{instance}"' in line and (said := re.search(r'"ts": ?"([^"]+)"', line)):
            found.append(datetime.fromisoformat(said[1]))
    return found


def run(system: LiveSystem, rate: float, kills: int, long: int) -> dict[str, Any]:
    """All kills; what was found."""
    with Load(("127.0.0.1", system.port), make_turns(system, long), rate) as load:
        time.sleep(QUIET_SECONDS)
        found = []
        for number in range(kills):
            running = system.eventually(lambda: system.running(MODEL), "the replicas are shown")
            found.append(kill(system, load, sorted(running, key=lambda one: str(one["id"]))[number % len(running)]))
            print(found[-1], file=sys.stderr, flush=True)
    return summary(found, load.asked()) | {"rate": rate}


def summary(kills: Sequence[Kill], asked: Sequence[Asked]) -> dict[str, Any]:
    """What all kills together say."""
    wrong = [one for one in asked if not one.right]
    times = [one.back for one in kills if one.back is not None]
    span = max((one.end for one in asked), default=0.0) - min((one.start for one in asked), default=0.0)
    found: dict[str, Any] = {
        "run": "failover",
        "kills": len(kills),
        "requests": len(asked),
        "requests_per_second": round(len(asked) / span, 1) if span else 0.0,
        "streaming_at_the_kill": [one.streaming for one in kills],
        "lost_streaming": [one.lost_streaming for one in kills],
        "lost_others": [one.lost_others for one in kills],
        "moved": [one.moved for one in kills],
        "seconds_until_asked_for_the_last_time": [one.last_tried for one in kills],
        "seconds_until_back": [one.back for one in kills],
        "seconds_until_back_median": round(statistics.median(times), 2) if times else None,
        "wrong": sum(not one.lost for one in wrong),
        "lost_at_any_time": sum(one.lost for one in wrong),
        "what_was_wrong": dict(collections.Counter(f"{one.turn.question.name}: {one.wrong[:300]}" for one in wrong)),
        "slowest_seconds": round(max((one.end - one.start for one in asked if one.right), default=0.0), 2),
    }
    all_back = all(one.back is not None for one in kills)
    accounted = found["lost_at_any_time"] == sum(one.lost_streaming for one in kills)
    return found | {"ok": all_back and accounted and not found["wrong"]}


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=5)
    add_options(parser, rate=50.0, replicas=3)
    args = parser.parse_args()
    with run_folder("failover", args.folder) as folder, replicas(args, folder) as (system, _):
        found = run(system, args.rate, args.kills, args.long)
    print(json.dumps(found | {"model": args.model, "replicas": args.replicas}))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
