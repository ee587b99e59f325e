"""Holds placement against the enumeration of all places for as many fleets and requests as it is told to.

    python -m tests.placement_run --examples 100000 [--processes 2] [--seed N]
    python -m tests.placement_run --case FILE

The cases are those of tests/stoker/domain/placement/fleets.py: up to 8 devices over up to 4 workers, models of up to 12
layers with the output. What is held against each decision is in judge.py beside it. A fault does not end the run: the
shortest case of each kind is printed as a line of JSON, which `--case` judges again. The last line is JSON; the exit
code is 1 where a fault was found.
"""

import argparse
import json
import multiprocessing
import re
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from stoker.domain.claims import Claim
from stoker.domain.placement.types import Placement, PlacementRequest
from stoker.domain.workers import Worker
from tests.stoker.domain.placement.fleets import Case, cases
from tests.stoker.domain.placement.judge import judge

BATCH = 1000  # examples of one seed: hypothesis remembers all of them

_quiet = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Result:
    """Of one run, or of several together."""

    examples: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    smallest: dict[str, str] = field(default_factory=dict)  # a case of each kind of fault

    def add(self, other: "Result") -> None:
        """Counts those of `other` too."""
        self.examples += other.examples
        self.outcomes += other.outcomes
        self.faults += other.faults
        for kind, case in other.smallest.items():
            if len(case) < len(self.smallest.get(kind, case + " ")):
                self.smallest[kind] = case


def run(examples: int, number: int) -> Result:
    """So many examples of the seed `number`."""
    result = Result()

    @seed(number)
    @settings(_quiet, max_examples=examples, phases=[Phase.generate])
    @given(cases())
    def one(case: Case) -> None:
        result.examples += 1
        try:
            outcome = judge(case)
        except Exception as error:  # noqa: BLE001  all of them are what is looked for
            kind = kind_of(error)
            result.faults[kind] += 1
            result.add(Result(smallest={kind: json.dumps(written(case))}))
        else:
            result.outcomes[outcome.tier if isinstance(outcome, Placement) else "nothing fits"] += 1

    one()
    return result


def _run(batch: tuple[int, int]) -> Result:
    return run(*batch)


def kind_of(error: Exception) -> str:
    """What is wrong, the same for all cases of one fault."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = re.sub(r"\d+", "N", (str(error).splitlines() or [""])[0])
    return f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {told}"


def written(case: Case) -> dict[str, Any]:
    """`case` as JSON has it."""
    return {
        "workers": [worker.model_dump(mode="json") for worker in case.workers],
        "claims": [claim.model_dump(mode="json") for claim in case.claims],
        "request": case.request.model_dump(mode="json"),
    }


def read(text: str) -> Case:
    """What `written` wrote."""
    parts = json.loads(text)
    return Case(
        workers=tuple(Worker.model_validate(worker) for worker in parts["workers"]),
        claims=tuple(Claim.model_validate(claim) for claim in parts["claims"]),
        request=PlacementRequest.model_validate(parts["request"]),
    )


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first batch; the others count on")
    parser.add_argument("--case", type=Path, default=None, metavar="FILE", help="a case that was printed")
    args = parser.parse_args()
    if args.case is not None:
        print(judge(read(args.case.read_text())).model_dump_json(indent=2))
        return 0
    began = time.monotonic()
    sizes = [min(BATCH, args.examples - done) for done in range(0, args.examples, BATCH)]
    result = Result()
    batches = [(size, args.seed + number) for number, size in enumerate(sizes)]
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=10) as pool:
        for number, one in enumerate(pool.imap_unordered(_run, batches), 1):
            result.add(one)
            if number % 10 == 0:
                print(f"{result.examples} examples, {result.faults.total()} faults", file=sys.stderr, flush=True)
    for kind, count in result.faults.items():
        print(f"{count} times {kind}\n{result.smallest[kind]}\n", flush=True)
    seconds = time.monotonic() - began
    summary = {
        "run": "placement",
        "seed": args.seed,
        "examples": result.examples,
        "seconds": round(seconds, 1),
        "per_second": round(result.examples / seconds, 1),
        "outcomes": dict(result.outcomes.most_common()),
        "faults": dict(result.faults),
    }
    print(json.dumps(summary))
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
