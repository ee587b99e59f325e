"""`stoker workers remove`: what it means for the worker's instances, the question, and the removal."""

import sys

import typer

from api.schemas.placements import WhatIfRead
from api.schemas.workers import WorkerRead, WorkerRemoved
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import print_data, show
from entrypoints.cli.views.what_if import drain_summary, drain_view


async def remove_worker(client: StokerClient, name: str, *, force: bool, yes: bool, output: OutputFormat) -> None:
    """Shows what would move, asks, removes. Raises CliError: not there, not empty and no `force`, not confirmed."""
    route = path("workers", name)
    worker = read_as(WorkerRead, await client.get(route))
    if worker.instances and force:
        preview = read_as(
            WhatIfRead, await client.call("POST", path("workers", name, "drain"), query={"dry_run": True})
        )
        if output == "table":
            show(drain_view(name, preview))
        if not yes:
            _confirm(name, preview)
    elif not worker.instances and not yes and _is_terminal():
        typer.confirm(f"remove {name}?", abort=True, err=True)
    answer = await client.call("DELETE", route, query={"force": force})
    if output != "table":
        print_data(answer, output)
        return
    removed = read_as(WorkerRemoved, answer)
    count = len(removed.instances)
    moved = f"; {count} instance{'' if count == 1 else 's'} started anew elsewhere, see `stoker ps`" if count else ""
    typer.echo(f"{name}: removed{moved}")


def _confirm(name: str, preview: WhatIfRead) -> None:
    """Asks on a terminal; elsewhere, nothing that runs is stopped without --yes."""
    if _is_terminal():
        typer.confirm(f"remove {name}, and start its instances anew elsewhere?", abort=True, err=True)
    elif preview.moves:
        raise CliError(
            f"{name}: {drain_summary(preview.moves)}",
            code=ExitCode.FAILED,
            hint=f"remove it all the same with --yes, or move them without a break: `stoker workers drain {name}`",
        )


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
