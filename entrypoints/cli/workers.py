"""`stoker workers [ls] | workers describe`."""

from typing import Annotated

import typer

from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.flags import OutputOption, ServerOption, WatchOption, asynchronous


@asynchronous
async def ls(watch: WatchOption = False, output: OutputOption = "table", server: ServerOption = None) -> None:
    """List workers (the default)."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.workers import workers_table

    async with connect(server) as client:
        await show_listing(client, "workers", "name", workers_table, watch=watch, output=output)


@asynchronous
async def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The worker's name.")],
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Show a worker's devices, claims and instances."""
    from api.schemas.instances import InstanceRead
    from api.schemas.workers import WorkerRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.workers import worker_description

    async with connect(server) as client:
        answer = await client.get(path("workers", name))
        if output != "table":
            print_data(answer, output)
            return
        instances = [read_as(InstanceRead, item) for item in await client.all(path("instances"))]
    here = [item for item in instances if item.placement is not None and item.placement.worker == name]
    show(worker_description(read_as(WorkerRead, answer), here))


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="GPU hosts: list them, describe one.")
    group.command()(ls)
    group.command()(describe)
    app.add_typer(group, name="workers")
