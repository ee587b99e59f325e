"""`stoker files [ls] | evict`."""

from typing import Annotated

import typer

from entrypoints.cli import completing
from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.flags import OutputOption, ServerOption, WatchOption, asynchronous


@asynchronous
async def ls(
    worker: Annotated[
        str | None,
        typer.Option("--worker", metavar="NAME", help="Only this worker's.", autocompletion=completing.workers),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="TEXT", help="Only models whose name has this in it.")
    ] = None,
    watch: WatchOption = False,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """List the models and who uses them (the default)."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.files import files_table

    asked = {name: value for name, value in (("worker", worker), ("model", model)) if value is not None}
    async with connect(server) as client:
        await show_listing(client, "files", "id", files_table, watch=watch, output=output, **asked)


@asynchronous
async def evict(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model, by its name or a part that only it has.")
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option("--worker", metavar="NAME", help="Only from this worker.", autocompletion=completing.workers),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="What nobody has used for that long, like 7d.")
    ] = None,
    free: Annotated[
        str | None,
        typer.Option("--free", metavar="SIZE", help="As much as it takes, unused longest first; needs --worker."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also a MODEL that Stoker did not fetch, but found in the user's cache.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Take models off the disks: by name, by age or for room.

    One MODEL, or all that nobody has used for a TIME, or as much as gives a SIZE on a worker. Never one in use; what
    is wanted again is fetched again.
    """
    from entrypoints.cli.client import connect
    from entrypoints.cli.evicting import evict_models, parse_choice

    choice = parse_choice(model=model, worker=worker, older_than=older_than, free=free, force=force)
    async with connect(server) as client:
        await evict_models(client, choice, yes=yes, dry_run=dry_run, output=output)


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="Models on the workers' disks: list them, take some away.")
    for command in (ls, evict):
        group.command()(command)
    app.add_typer(group, name="files")
