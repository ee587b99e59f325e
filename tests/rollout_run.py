"""Changes a deployment under load, again and again, then gives it a wrong file, and looks who noticed.

    python -m tests.rollout_run [--rate 20] [--changes 5] [--replicas 2] [--model tiny|smollm2] [--folder FOLDER]

On this machine runs a real system: PostgreSQL, Temporal, the API in two processes, the control plane, an agent, and a
deployment with several replicas, each a llama-server of its own. Whole and streamed requests come at a constant pace,
the streamed ones longer. Then the deployment is changed so that every instance must be made anew, several times:

    failed         requests without a right answer that were not being streamed (0 wanted)
    cut            streams that broke off (0 wanted)
    fewest         replicas that ran at the least; never fewer than are wanted
    seconds        from the change until only new instances are there

At last it is given a file whose header can be read, and that engines refuse:

    seconds until rolled back   from the change until the deployment says so (at most 60 wanted)
    untouched                   whether every process that ran before runs on

The last line is JSON; the exit code is 1 where anything is not as wanted. All that was started ends with the run.
"""

import argparse
import collections
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live.load import Asked, Load
from tests.live.long_run import run_folder
from tests.live.replicas_under_load import MODEL, add_options, is_streaming, make_turns, replicas
from tests.live.system import LiveSystem

ROLLED_WITHIN_SECONDS = 300.0
ROLLED_BACK_WITHIN_SECONDS = 60.0
QUIET_SECONDS = 4.0  # of load before the first change and after each: what was begun must end well


@dataclass(frozen=True)
class Roll:
    """One change, and what its clients saw. `seconds`: None: it did not come to its end."""

    seconds: float | None
    fewest: int
    requests: int
    failed: int
    cut: int
    wrong: int


@dataclass(frozen=True)
class RollBack:
    """A wrong file. `seconds`: None: it was not rolled back."""

    seconds: float | None
    untouched: bool
    reason: str
    requests: int
    failed: int
    cut: int
    wrong: int


def seen(asked: Sequence[Asked]) -> dict[str, int]:
    """What came of requests."""
    return {
        "requests": len(asked),
        "failed": sum(one.lost and not is_streaming(one) for one in asked),
        "cut": sum(one.lost and is_streaming(one) for one in asked),
        "wrong": sum(not one.right and not one.lost for one in asked),
    }


def roll(system: LiveSystem, load: Load, replicas: int, threads: int) -> Roll:
    """Changes the deployment so that its answers stay the same and its instances cannot."""
    began = time.monotonic()
    generation = change(system, {"options": {"threads": threads, "batch": 512 * threads}})["generation"]
    fewest, seconds = replicas, None
    while seconds is None and time.monotonic() < began + ROLLED_WITHIN_SECONDS:
        there = system.instances(MODEL)
        running = [one for one in there if one["state"] == "running"]
        if there:
            fewest = min(fewest, len(running))
        if len(running) == len(there) == replicas and all(one["generation"] == generation for one in there):
            seconds = round(time.monotonic() - began, 2)
        time.sleep(0.1)
    time.sleep(QUIET_SECONDS)
    return Roll(seconds, fewest, **seen([one for one in load.asked() if one.end >= began]))


def roll_back(system: LiveSystem, load: Load, wrong: Path) -> RollBack:
    """Gives it a file that engines refuse."""
    before = processes(system)
    began = time.monotonic()
    generation = change(system, {"model": f"file:{wrong}"})["generation"]
    seconds, given_up = None, None
    while given_up is None and time.monotonic() < began + ROLLED_WITHIN_SECONDS:
        with system.api() as api:
            given_up = api.get(f"/deployments/{MODEL}").raise_for_status().json()["rolled_back"]
        seconds = round(time.monotonic() - began, 2)
        time.sleep(0.1)
    time.sleep(QUIET_SECONDS)
    is_it = given_up is not None and given_up["generation"] == generation
    return RollBack(
        seconds if is_it else None,
        processes(system) == before,
        given_up["reason"] if given_up is not None else "",
        **seen([one for one in load.asked() if one.end >= began]),
    )


def change(system: LiveSystem, fields: dict[str, Any]) -> dict[str, Any]:
    """The deployment as it is right after a change."""
    with system.api() as api:
        answer = api.patch(f"/deployments/{MODEL}", json=fields, timeout=120)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def processes(system: LiveSystem) -> dict[str, int]:
    """The running engines by instance."""
    return {one["id"]: one["pid"] for one in system.running(MODEL)}


def refused_by_engines(good: Path, folder: Path) -> Path:
    """A copy whose header can be read, and in which an engine misses a tensor."""
    path = folder / "wrong.gguf"
    path.write_bytes(good.read_bytes().replace(b"output_norm.weight", b"output_none.weight", 1))
    return path


def run(system: LiveSystem, rate: float, changes: int, replicas: int, long: int, wrong: Path) -> dict[str, Any]:
    """All changes; what was found."""
    turns = make_turns(system, long)
    time.sleep(QUIET_SECONDS)  # until every process of the API knows the new key
    with Load(("127.0.0.1", system.port), turns, rate) as load:
        time.sleep(QUIET_SECONDS)
        rolls = []
        for number in range(changes):
            rolls.append(roll(system, load, replicas, threads=2 - number % 2))
            print(rolls[-1], file=sys.stderr, flush=True)
        back = roll_back(system, load, wrong)
        print(back, file=sys.stderr, flush=True)
    return summary(rolls, back, load.asked(), replicas) | {"rate": rate}


def summary(rolls: Sequence[Roll], back: RollBack, asked: Sequence[Asked], replicas: int) -> dict[str, Any]:
    """What all changes together say."""
    total = seen(asked)
    wrong = [one for one in asked if not one.right]
    rolled = all(one.seconds is not None and one.fewest >= replicas for one in rolls)
    rolled_back = back.seconds is not None and back.seconds <= ROLLED_BACK_WITHIN_SECONDS and back.untouched
    return {
        "run": "rollout",
        "changes": len(rolls),
        "replicas": replicas,
        "requests": total["requests"],
        "failed": total["failed"],
        "streams_cut": total["cut"],
        "wrong": total["wrong"],
        "what_was_wrong": dict(collections.Counter(f"{one.turn.question.name}: {one.wrong[:300]}" for one in wrong)),
        "fewest_running": min((one.fewest for one in rolls), default=replicas),
        "seconds_to_roll": [one.seconds for one in rolls],
        "seconds_until_rolled_back": back.seconds,
        "untouched_by_the_wrong_file": back.untouched,
        "why_rolled_back": back.reason,
        "slowest_seconds": round(max((one.end - one.start for one in asked if one.right), default=0.0), 2),
        "ok": rolled and rolled_back and not total["failed"] and not total["cut"] and not total["wrong"],
    }


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--changes", type=int, default=5)
    add_options(parser, rate=20.0, replicas=2)
    args = parser.parse_args()
    with run_folder("rollout", args.folder) as folder, replicas(args, folder) as (system, model):
        wrong = refused_by_engines(model, folder / "models")
        found = run(system, args.rate, args.changes, args.replicas, args.long, wrong)
    print(json.dumps(found | {"model": args.model}))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
