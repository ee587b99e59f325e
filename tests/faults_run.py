"""Breaks a system over several machines in every way of a table, under load, as often as it is told to.

    python -m tests.faults_run [--fault NAME …] [--times 5] [--workers 4] [--folder FOLDER]

On this machine runs a real system: PostgreSQL, Temporal, the API, the control plane, and an agent in each of several
network namespaces (root only), none of which has room for the model alone. SmolLM2 is deployed, spread by itself, and
compared with a llama-server of its own, token for token. Then each fault strikes while chat requests keep coming:

    failing fast   seconds from the fault until nobody waited longer than 2 s to be told that it failed
    answering      seconds from the fault until the model answered rightly again; - where it never stopped
    taking         when that answer was asked for: the rest is the engine's, slow on a busy machine
    lost           requests without a right answer, and, after a +, such while what was broken came back
    settled        seconds from the fault until processes and claims were right
    orphans        processes of engines and links that belong to no held incarnation; and claims wrong: both
                   counted when they should have settled long ago

The stall watch waits for --stall-timeout, which is shorter here than by default (60 s). The last line is JSON; the exit
code is 1 where an answer, a process or a claim was wrong, the model never answered again, or a fault was seen that
nobody may see (of Temporal, the control plane, the database, an agent). All that was started ends with the run, also
by Ctrl-C.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from subprocess import SubprocessError
from typing import Any

import httpx

from entrypoints.demo.model import fetch_demo_model
from tests.faults import network
from tests.faults.load import MAX_TOKENS, PROMPT, RATE, Load
from tests.faults.single_host import answer, single_host
from tests.faults.spread_system import MODEL, Fleet, SpreadSystem
from tests.faults.table import FAULTS, Fault
from tests.faults.trial import NotSteadyError, Trial, steady, try_fault
from tests.live.long_run import add_folder_option, engine_folder, run_folder

QUESTIONS = ("Name three fruits.", "What is the capital of France?", "Write a short story about a fox.")
TOKENS = 64


def check_placement(system: SpreadSystem) -> tuple[dict[str, Any], str]:
    """Where the model went and whether it answers as one server does; the short answer that the load waits for."""
    instance = system.running() or {}
    placement = instance["placement"]
    log = system.folder / "logs" / "single-host.log"
    key = {"authorization": f"Bearer {system.admin_key}"}
    differing = []
    with (
        single_host(system.engine, system.model, log, context_length=system.fleet.context_length) as alone,
        httpx.Client(base_url=system.url, timeout=120, trust_env=False) as spread,
    ):
        for question in QUESTIONS:
            expected = answer(alone, MODEL, question, TOKENS, headers={})
            given = answer(spread, MODEL, question, TOKENS, headers=key)
            if given != expected:
                differing.append(f"{question}: {''.join(expected)!r} alone, {''.join(given)!r} here")
        short = "".join(answer(alone, MODEL, PROMPT, MAX_TOKENS, headers={}))
    print(system.cli("describe", MODEL))
    found = {
        "tier": placement["tier"],
        "workers": placement["workers"],
        "layers": {f"{share['worker']}/{share['device']}": share["layers"] for share in placement["shares"]},
        "load_seconds": instance["load_seconds"],
        "tokens_compared": len(QUESTIONS) * TOKENS,
        "differing_answers": differing,
    }
    print(json.dumps(found), flush=True)
    return found, short


def run(system: SpreadSystem, faults: Iterable[Fault], times: int, rate: float, expected: str) -> list[Trial]:
    """All trials, of an instance that has not failed before. One that cannot be done ends its fault."""
    trials = []
    with Load(system.url, system.admin_key, MODEL, expected, rate=rate) as load:
        for fault in faults:
            for turn in range(times):
                try:
                    if (system.instance() or {}).get("incarnation", 0) != 1:
                        _deploy_anew(system, load)  # what has failed of late is given longer and longer pauses
                    trials.append(try_fault(system, load, fault, turn))
                except (NotSteadyError, LookupError, TimeoutError, httpx.HTTPError, SubprocessError) as error:
                    print(f"{fault.name} #{turn + 1} could not be done: {error!r}", flush=True)
                    system.network.heal()
                    break
                print(_told(trials[-1], turn), flush=True)
    return trials


def _deploy_anew(system: SpreadSystem, load: Load) -> None:
    system.cli("rm", MODEL, "--timeout", "100")
    system.deploy()
    steady(system, load)


def _told(trial: Trial, turn: int) -> str:
    seen, left = trial.seen, trial.findings
    settled = "never" if trial.settled is None else f"{trial.settled:.1f} s"
    parts = (
        f"{trial.fault} #{turn + 1} ({trial.whom}): fails fast {_seconds(seen.failing_fast)}",
        f"answers {_seconds(seen.answering, 'never')} (asked at {_seconds(seen.taking)})",
        f"lost {seen.lost}+{trial.lost_after} (cut {seen.cut}, refused {seen.refused}, hung {seen.hung}, "
        f"wrong {seen.wrong}), slowest {seen.slowest:.1f} s",
        f"restarts {trial.restarts}, load {trial.load_seconds:.1f} s, settled {settled}",
    )
    found = [*left.orphans, *left.claims, *left.missing]
    return "\n   ".join([", ".join(parts), *trial.trail, *found])


def _seconds(value: float | None, without: str = "-") -> str:
    return without if value is None else f"{value:.2f} s"


COLUMNS = (
    "fault",
    "times",
    "failing fast",
    "taking",
    "answering",
    "lost",
    "restarts",
    "load",
    "settled",
    "orphans",
    "claims",
)


def summaries(trials: list[Trial]) -> list[dict[str, Any]]:
    """One row a fault: the median and the worst of its trials."""
    rows = []
    for name in dict.fromkeys(trial.fault for trial in trials):
        own = [trial for trial in trials if trial.fault == name]
        rows.append(
            {
                "fault": name,
                "times": len(own),
                "failing_fast": _spread(own, lambda trial: trial.seen.failing_fast),
                "answering": _spread(own, lambda trial: trial.seen.answering),
                "taking": _spread(own, lambda trial: trial.seen.taking),
                "never_answered": sum(trial.seen.answering is None for trial in own),
                "lost": [trial.seen.lost for trial in own],
                "lost_after": [trial.lost_after for trial in own],
                "wrong": sum(trial.seen.wrong for trial in own),
                "slowest": max(trial.seen.slowest for trial in own),
                "restarts": [trial.restarts for trial in own],
                "load": _spread(own, lambda trial: trial.load_seconds),
                "settled": _spread(own, lambda trial: trial.settled),
                "orphans": sum(len(trial.findings.orphans) for trial in own),
                "claims": sum(len(trial.findings.claims) for trial in own),
                "missing": sum(len(trial.findings.missing) for trial in own),
                "should_not_be_seen": sum(not FAULTS[name].outage and _was_seen(trial) for trial in own),
            }
        )
    return rows


def _was_seen(trial: Trial) -> bool:
    return bool(trial.seen.lost or trial.lost_after or trial.restarts)


def _spread(trials: list[Trial], of: Callable[[Trial], float | None]) -> list[float] | None:
    values = [value for value in map(of, trials) if value is not None]
    return [round(statistics.median(values), 2), round(max(values), 2)] if values else None


def _table(rows: list[dict[str, Any]]) -> str:
    """For people: median / worst."""

    def cell(row: dict[str, Any], column: str) -> str:
        value = row[column.replace(" ", "_")]
        if column == "lost":
            return " ".join(f"{a}+{b}" if b else str(a) for a, b in zip(value, row["lost_after"], strict=True))
        if isinstance(value, list):
            return " ".join(map(str, value)) if column == "restarts" else " / ".join(f"{one:.1f}" for one in value)
        if column == "answering" and row["never_answered"]:
            return f"{value} never {row['never_answered']}x"
        return "-" if value is None else str(value)

    lines = [list(COLUMNS), *([cell(row, column) for column in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fault", action="append", choices=FAULTS, help="repeatable; all of them by default")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--offer", default=Fleet.offer, help="of each worker's CPU")
    parser.add_argument("--stall-timeout", type=float, default=Fleet.stall_timeout, help="seconds")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--alone", action="store_true", help="let one worker have room for the whole model")
    add_folder_option(parser)
    args = parser.parse_args()
    if problem := network.allowed():
        print(f"this machine allows no network namespaces: {problem}", file=sys.stderr)
        return 2
    workers = tuple(f"w{number}" for number in range(1, args.workers + 1))
    offer = "2GiB" if args.alone else args.offer
    fleet = Fleet(workers=workers, offer=offer, stall_timeout=args.stall_timeout)
    faults = [FAULTS[name] for name in args.fault or FAULTS]
    began = time.monotonic()
    with (
        run_folder("faults", args.folder) as folder,
        SpreadSystem(folder, engine_folder(), fetch_demo_model(), fleet) as system,
    ):
        system.deploy()
        placed, expected = check_placement(system)
        trials = run(system, faults, args.times, args.rate, expected)
    rows = summaries(trials)
    print(f"\n{_table(rows)}\nseconds: median / worst; the stall watch waits for {args.stall_timeout:g} s\n")
    summary = {"run": "faults", "seconds": round(time.monotonic() - began, 1), "stall_timeout": args.stall_timeout}
    summary |= {"fleet": dataclasses.asdict(fleet), "placed": placed, "faults": rows}
    print(json.dumps(summary))
    return 1 if wrong(placed, rows) or len(trials) < len(faults) * args.times else 0


def wrong(placed: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether something is, that must never be."""
    kinds = ("never_answered", "wrong", "orphans", "claims", "missing", "should_not_be_seen")
    return bool(placed["differing_answers"]) or any(row[kind] for row in rows for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())
