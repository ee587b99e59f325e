"""How results look: tables for people, JSON and YAML for scripts, and numbers the way people write them."""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.printable import printable
from stoker.domain.units import format_duration

_UNLIMITED_COLUMNS = 10_000


def console(*, stderr: bool = False) -> Console:
    """A console that takes texts as they are. Where no terminal is, a row is one line, however long."""
    stream = sys.stderr if stderr else sys.stdout
    unlimited = not stream.isatty() and "COLUMNS" not in os.environ
    width = _UNLIMITED_COLUMNS if unlimited else None
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)


def show(view: RenderableType) -> None:
    """Prints a table or a description."""
    screen = console()
    if screen.is_terminal:
        screen.print(view)
        return
    with screen.capture() as captured:
        screen.print(view)
    for line in captured.get().removesuffix("\n").split("\n"):
        typer.echo(line.rstrip())  # rich fills lines up with spaces


def print_data(data: Any, output: OutputFormat) -> None:
    """Prints what the server sent, as JSON or YAML."""
    if output == "yaml":
        import yaml

        typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_change(kind: str, item: Any, output: OutputFormat) -> None:
    """Prints one change of a watch: a line of JSON, or a YAML document."""
    change = {"event": kind, "object": item}
    if output == "yaml":
        typer.echo("---")
        print_data(change, output)
    else:
        typer.echo(json.dumps(change, ensure_ascii=False))


def table(*columns: str) -> Table:
    """An empty table without lines. Texts that are too long for the terminal are cut at its last column's end."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(name, overflow="fold")
    return made


def fields() -> Table:
    """An empty list of `name  value` lines."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def write(text: str) -> None:
    """Writes to stdout at once: printable where that is a terminal, to a pipe or a file exactly as it is."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def cell(text: object, style: str = "") -> Text:
    """A table's cell."""
    return Text(printable(str(text)), style=style)


duration = format_duration


def age(since: datetime, now: datetime | None = None) -> str:
    """How long ago `since` was."""
    return duration(((now or datetime.now(UTC)) - since).total_seconds())
