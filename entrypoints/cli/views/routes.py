"""Routes, for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from api.schemas.routes import RouteRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, table


def routes_table(items: Sequence[Any]) -> Table:
    """`stoker routes`."""
    made = table("NAME", "LEADS TO", "FALLBACKS", "CHANGED")
    for item in items:
        read = read_as(RouteRead, item)
        made.add_row(
            cell(read.name),
            cell(_targets(read)),
            cell(", ".join(f"{each.deployment} ({_listed(each.statuses)})" for each in read.fallbacks)),
            cell(f"{age(read.updated_at)} ago"),
        )
    return made


def _targets(read: RouteRead) -> str:
    if len(read.targets) == 1:
        return read.targets[0].deployment
    total = sum(target.weight for target in read.targets)
    return ", ".join(f"{target.deployment} {100 * target.weight / total:.3g}%" for target in read.targets)


def _listed(statuses: Sequence[int]) -> str:
    return " ".join(map(str, statuses))
