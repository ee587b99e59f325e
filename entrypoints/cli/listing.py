"""Listings, and single things: once, or with every change."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import typer
from rich.console import RenderableType
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


async def show_one(
    client: StokerClient,
    route: str,
    view: Callable[[Any], RenderableType],
    *,
    watch: bool,
    output: OutputFormat,
    told: Callable[[Any], Any] = lambda item: item,
) -> None:
    """Prints what is at `route`: for people by `view`, for scripts what `told` makes of it.

    With `watch` at every change, until it is gone or Ctrl-C: in its place on a terminal, elsewhere one after the other.
    """
    if not watch:
        item = await client.get(route)
        if output == "table":
            show(view(item))
        else:
            print_data(told(item), output)
        return
    screen = console()
    redrawn = output == "table" and screen.is_terminal
    live = Live("", console=screen, auto_refresh=False, vertical_overflow="visible") if redrawn else None
    with live or nullcontext():
        async with aclosing(client.watch(route)) as changes:
            async for change in changes:
                if change.kind == "connected":
                    continue
                if output != "table":
                    print_change(change.kind, told(change.item), output)
                elif live is not None:
                    live.update(view(change.item), refresh=True)
                else:
                    show(view(change.item))
                    typer.echo()
                if change.kind == "deleted":
                    break
    typer.echo("it is gone", err=True)


def _ordered(items: Iterable[Any], key: str) -> list[Any]:
    return sorted(items, key=lambda item: str(item[key]))


def _print_one(kind: str, item: Any, view: View, output: OutputFormat) -> None:
    if output != "table":
        print_change(kind, item, output)
        return
    cells = [str(cell) for column in view([item]).columns for cell in column.cells]
    typer.echo("  ".join([f"{kind:<8}", *cells]))
