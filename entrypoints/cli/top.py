"""`stoker top`."""

from typing import Annotated

import typer

from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous


@asynchronous
async def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, metavar="SECONDS", help="Between two looks.")
    ] = 2.0,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Show the cluster on one screen, until q or Ctrl-C.

    Workers and their devices, deployments with their requests and tokens a second, instances; all kept current.
    Without a terminal, and with -o json or yaml, it is shown once; what is counted a second is then of one interval.
    """
    from entrypoints.cli.client import connect
    from entrypoints.cli.cluster_screen import show_once, show_until_told
    from entrypoints.cli.output import console

    async with connect(server) as client:
        if once or output != "table" or not console().is_terminal:
            await show_once(client, interval, output)
        else:
            await show_until_told(client, interval)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(top)
