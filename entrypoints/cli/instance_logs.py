"""`stoker logs`."""

from typing import TYPE_CHECKING, Annotated

import typer

from entrypoints.cli import completing
from entrypoints.cli.errors import CliError
from entrypoints.cli.flags import ServerOption, asynchronous
from entrypoints.cli.printable import tell

if TYPE_CHECKING:
    from entrypoints.cli.client import StokerClient


@asynchronous
async def logs(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|INSTANCE",
            help="A deployment, or one of its instances.",
            autocompletion=completing.deployments,
        ),
    ],
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, max=10_000, help="How many of the last lines.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    server: ServerOption = None,
) -> None:
    """Show what the processes of a deployment wrote. With several instances, each line begins with its instance."""
    import asyncio

    from entrypoints.cli.client import connect

    async with connect(server) as client:
        found = await _instances(client, name)
        width = max(map(len, found)) if len(found) > 1 else 0
        shown = await asyncio.gather(
            *(_copy(client, instance, tail, follow, prefix=width) for instance in found), return_exceptions=True
        )
    failures = [error for error in shown if isinstance(error, BaseException)]
    for error in failures:
        if len(failures) == len(found) or not isinstance(error, CliError):
            raise error
        tell(f"error: {error}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(logs)


async def _instances(client: "StokerClient", name: str) -> list[str]:
    """The ids of the deployment's instances; `name` itself where it is no deployment."""
    from entrypoints.cli.client import path
    from entrypoints.cli.errors import ExitCode

    try:
        deployment = await client.get(path("deployments", name))
    except CliError as error:
        if error.code not in (ExitCode.NOT_FOUND, ExitCode.USAGE):
            raise
        return [name]
    found = [instance["id"] for instance in deployment["instances"]]
    if not found:
        raise CliError(f"{name} has no instances: {deployment['message']}")
    return found


async def _copy(client: "StokerClient", instance: str, tail: int, follow: bool, *, prefix: int) -> None:
    """Writes the instance's log to stdout; a `prefix` above 0 is the width of the column that names it."""
    from contextlib import aclosing

    from entrypoints.cli.client import path
    from entrypoints.cli.output import write

    label = f"{instance:<{prefix}}  " if prefix else ""
    async with aclosing(client.text(path("instances", instance, "logs"), tail=tail, follow=follow)) as text:
        async for line in text:
            write(f"{label}{line}\n")
