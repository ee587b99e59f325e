"""`stoker workers drain`: the preview, the question, and the wait until the worker is empty."""

import asyncio
import sys
import time
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Any

import typer

from api.schemas.placements import WhatIfRead
from api.schemas.workers import WorkerRead
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import duration, print_data, show
from entrypoints.cli.printable import tell
from entrypoints.cli.views.what_if import drain_summary, drain_view
from stoker.domain.workers import WorkerState

LINE_EVERY_SECONDS = 10.0
"""How often a line says what is still there, while nothing moves."""

_CALLED_OFF = (WorkerState.READY, WorkerState.CORDONED)


class DrainLines:
    """Says on stderr what left the worker, and now and then what is still there."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._there: set[str] | None = None
        self._began = self._told_at = clock()

    def show(self, instances: Collection[str]) -> None:
        """The instances that hold something of the worker now."""
        now, there = self._clock(), set(instances)
        gone = sorted((self._there or set()) - there)
        for number, instance in enumerate(gone, 1):
            self._say(f"{instance} has left {self._name}, {len(there) + len(gone) - number} to go")
        if gone or self._there is None:
            self._told_at = now
        elif there and now - self._told_at >= LINE_EVERY_SECONDS:
            self._told_at = now
            self._say(f"still on {self._name} after {duration(now - self._began)}: {', '.join(sorted(there))}")
        self._there = there

    def _say(self, text: str) -> None:
        tell(text)


async def drain_worker(
    client: StokerClient, name: str, *, yes: bool, dry_run: bool, wait: bool, timeout: float, output: OutputFormat
) -> None:
    """Shows what would move, asks, drains, and waits. Raises CliError."""
    route = path("workers", name, "drain")
    preview = await client.call("POST", route, query={"dry_run": True})
    if output == "table":
        show(drain_view(name, read_as(WhatIfRead, preview)))
    if dry_run:
        if output != "table":
            print_data(preview, output)
        return
    if not yes:
        _confirm(name, read_as(WhatIfRead, preview))
    answer: Any = await client.call("POST", route)
    if wait:
        await wait_until_empty(client, name, timeout=timeout)
    if output != "table":
        print_data(answer, output)
    elif wait:
        typer.echo(f"{name}: empty")
    else:
        typer.echo(f"{name}: being drained")


async def wait_until_empty(client: StokerClient, name: str, *, timeout: float) -> None:
    """Returns when no instance holds anything of the worker. Raises CliError: called off, gone, too late."""
    lines, there = DrainLines(name), list[str]()
    try:
        async with asyncio.timeout(timeout), aclosing(client.watch(path("workers", name))) as changes:
            async for change in changes:
                if change.kind == "connected":
                    continue
                if change.kind == "deleted":
                    raise CliError(f"{name} is no worker of the cluster any more", code=ExitCode.NOT_FOUND)
                read = read_as(WorkerRead, change.item)
                there = read.instances
                lines.show(there)
                if not there:
                    return
                if read.state in _CALLED_OFF:
                    raise CliError(f"the drain of {name} was called off: it is {read.state}, with {_count(there)}")
    except TimeoutError:
        raise CliError(
            f"{name} is not empty after {timeout:g} s: {_count(there)} still there",
            code=ExitCode.TIMED_OUT,
            hint=f"it goes on by itself: see `stoker workers describe {name}`; "
            f"`stoker workers uncordon {name}` calls it off",
        ) from None
    except asyncio.CancelledError:
        typer.echo(f"the drain goes on by itself; `stoker workers uncordon {name}` calls it off", err=True)
        raise


def _confirm(name: str, preview: WhatIfRead) -> None:
    """Asks on a terminal; elsewhere, refuses what would stop something."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        typer.confirm(f"drain {name}?", abort=True, err=True)
    elif not preview.fits:
        raise CliError(
            f"{name}: {drain_summary(preview.moves)}",
            hint=f"drain it all the same with --yes, or see what more machines would do: "
            f"`stoker simulate --drain {name} --add 4x24GiB`",
        )


def _count(instances: Collection[str]) -> str:
    return f"{len(instances)} instance{'' if len(instances) == 1 else 's'}"
