"""Listings: once, or with every change."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import typer
from rich.live import Live
from rich.table import Table

from entrypoints.cli.client import StokerClient, path
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import console, print_change, print_data, show

View = Callable[[Sequence[Any]], Table]


async def show_listing(
    client: StokerClient, kind: str, key: str, view: View, *, watch: bool, output: OutputFormat, **query: str
) -> None:
    """Prints all of `kind` that `query` asks for, whose id is the field `key`. With `watch` until Ctrl-C.

    A watch is a table that is kept current on a terminal; elsewhere each change is printed by itself.
    """
    if not watch:
        items = await client.all(path(kind), **query)
        if output == "table":
            show(view(items))
        else:
            print_data(items, output)
        return
    found: dict[str, Any] = {}
    screen = console()
    redrawn = output == "table" and screen.is_terminal
    live = Live(view([]), console=screen, auto_refresh=False) if redrawn else None
    with live or nullcontext():
        async with aclosing(client.watch(path(kind), **query)) as changes:
            async for change in changes:
                if change.kind == "connected":
                    found.clear()
                elif change.kind == "deleted":
                    found.pop(change.item[key], None)
                else:
                    found[change.item[key]] = change.item
                if live is not None:
                    live.update(view(_ordered(found.values(), key)), refresh=True)
                elif change.kind != "connected":
                    _print_one(change.kind, change.item, view, output)


def _ordered(items: Iterable[Any], key: str) -> list[Any]:
    return sorted(items, key=lambda item: str(item[key]))


def _print_one(kind: str, item: Any, view: View, output: OutputFormat) -> None:
    if output != "table":
        print_change(kind, item, output)
        return
    cells = [str(cell) for column in view([item]).columns for cell in column.cells]
    typer.echo("  ".join([f"{kind:<8}", *cells]))
