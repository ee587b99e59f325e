"""What was used, for people."""

from typing import Any

from rich.table import Table

from api.schemas.usage import UsageRead, UsageSumsRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import cell, table
from stoker.domain.usage import UsageBy

_NAMED = {UsageBy.KEY: "KEY", UsageBy.HOUR: "HOUR (UTC)", UsageBy.DAY: "DAY (UTC)", UsageBy.STATUS: "STATUS"}


def usage_table(answer: Any) -> Table:
    """`stoker usage`. Times are means: to the first token, and from one token to the next."""
    read = read_as(UsageRead, answer)
    numbers = ("REQUESTS", "ERRORS", "GONE", "TOKENS IN", "CACHED", "TOKENS OUT", "FIRST TOKEN", "PER TOKEN")
    made = table(_NAMED.get(read.by, "MODEL"), *numbers)
    for column in made.columns[1:]:
        column.justify = "right"
    for group in read.data:
        _add(made, group.group or "-", group)
    if len(read.data) != 1:
        _add(made, "all", read.total)
    return made


def _add(made: Table, name: str, sums: UsageSumsRead) -> None:
    counts = (sums.requests, sums.errors, sums.gone, sums.input_tokens, sums.cached_tokens, sums.output_tokens)
    times = (sums.mean_time_to_first_token, sums.mean_time_per_output_token)
    made.add_row(cell(name), *(cell(f"{count:,}") for count in counts), *(cell(_time(seconds)) for seconds in times))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
