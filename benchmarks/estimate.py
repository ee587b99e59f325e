"""How far our memory estimates are from llama.cpp's own numbers, device by device, in the cases of tests/referee.

With names of models as arguments, only theirs. The engine is the one that `stoker engine install` builds for the CPU.
Ends with one JSON line: per cent of a device's total, and MiB.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from entrypoints.demo.model import fetch_demo_model
from stoker.domain.units import MIB
from tests.referee.cases import Models, describe, describe_split, published_cases, smollm2_cases, tiny_cases
from tests.referee.comparison import Row, judge
from worker_agent.engine_host import look_at_host
from worker_agent.engine_install import InstallRequest, install_engine
from worker_agent.engine_options import Backend

COLUMNS = ("weights", "cache", "compute", "total")  # without the output buffer: see Row


class Stages:
    """Tells on stderr what an installation does: the first one on a machine takes some minutes."""

    def stage(self, text: str) -> None:
        print(text, file=sys.stderr)

    def steps(self, done: int, total: int) -> None:
        pass


def main(names: Sequence[str]) -> None:
    """Prints the table, and one JSON line at the end."""
    engine = install_engine(InstallRequest(backend=Backend.CPU), look_at_host(), Stages())
    cases = [*tiny_cases(), *smollm2_cases(), *published_cases()]
    cases = [case for case in cases if not names or case.model in names]
    print(header())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder), fetch_demo_model())
        with judge(engine.folder / "bin", models) as court:
            for row in chain.from_iterable(map(court.compare, cases)):
                print(line(row), flush=True)
                rows.append(row)
    print(json.dumps(summary(rows) | {"benchmark": "estimate", "cases": len(cases)}))


def header() -> str:
    """The table's head: MiB estimated and MiB that the engine says, column by column."""
    numbers = "  ".join(f"{column:>9} {'engine':>9}" for column in COLUMNS)
    return f"{'model':<31} {'options':<24} {'split':<11} {'on':<4}  {numbers}  {'over MiB':>9} {'%':>6}"


def line(row: Row) -> str:
    """One device of one case."""
    split = describe_split(row.case.split)
    split = split if len(split) <= 11 else f"{len(row.case.split)} devices"
    pairs = [*((getattr(row.estimated, column), getattr(row.engine, column)) for column in COLUMNS[:-1]), row.totals]
    numbers = "  ".join(f"{estimated / MIB:9.2f} {engine / MIB:9.2f}" for estimated, engine in pairs)
    over = (row.totals[0] - row.totals[1]) / MIB
    place = f"{row.case.model:<31} {describe(row.case.options):<24} {split:<11} {row.device:<4}"
    return f"{place}  {numbers}  {over:9.2f} {100 * row.over:6.2f}"


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The worst of all rows."""

    def apart(field: str, rows: Sequence[Row] = rows) -> float:
        return max((abs(getattr(row.estimated, field) - getattr(row.engine, field)) for row in rows), default=0) / MIB

    return {
        "rows": len(rows),
        "worst_over_percent": round(100 * max((row.over for row in rows), default=0), 2),
        "worst_over_mib": round(max((row.totals[0] - row.totals[1] for row in rows), default=0) / MIB, 2),
        "worst_under_percent": round(100 * max((-row.over for row in rows), default=0), 2),
        "worst_weights_mib": round(apart("weights"), 3),
        "worst_cache_mib": round(apart("cache"), 3),
        "worst_output_mib": round(apart("output", [row for row in rows if not row.embeds]), 3),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
