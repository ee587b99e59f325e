"""`stoker apply | diff | export`: the whole cluster as one file says it."""

from typing import Annotated

import typer

from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, TimeoutOption, asynchronous

FileOption = Annotated[
    str, typer.Option("--file", "-f", metavar="FILE", help="What the cluster is to be, in YAML or JSON; - is stdin.")
]
PruneOption = Annotated[bool, typer.Option("--prune", help="Also remove what the file does not name.")]


@asynchronous
async def apply(
    file: FileOption,
    prune: PruneOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the file, and show the plan.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every deployment of the file runs.")] = False,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Make deployments and routes what a file says.

    The plan is shown first. Where anything in the file is wrong, nothing is applied. What is not given gets its
    default, also where a deployment of that name had something else. On a terminal a removal is asked about; without
    one it needs --yes.
    """
    from entrypoints.cli.applying import apply_cluster
    from entrypoints.cli.client import connect
    from entrypoints.cli.cluster_file import read_cluster_file

    wanted = read_cluster_file(file)
    async with connect(server) as client:
        await apply_cluster(
            client, wanted, prune=prune, dry_run=dry_run, yes=yes, wait=wait, timeout=timeout, output=output
        )


@asynchronous
async def diff(
    file: FileOption, prune: PruneOption = False, output: OutputOption = "table", server: ServerOption = None
) -> None:
    """Show what `apply` would do.

    Exit code 0: nothing. 1: something. 2 or more: it cannot be told.
    """
    from entrypoints.cli.applying import show_difference
    from entrypoints.cli.client import connect
    from entrypoints.cli.cluster_file import read_cluster_file

    wanted = read_cluster_file(file)
    try:
        async with connect(server) as client:
            differs = await show_difference(client, wanted, prune=prune, output=output)
    except CliError as error:
        if error.code is ExitCode.FAILED:  # which means here that something differs
            error.code = ExitCode.USAGE
        raise
    raise typer.Exit(ExitCode.FAILED if differs else ExitCode.OK)


@asynchronous
async def export(server: ServerOption = None) -> None:
    """Print deployments and routes as the file of `apply`.

    In YAML, by name, and only what is not the default. Applied to an empty cluster, it makes the same.
    """
    from entrypoints.cli.applying import read_cluster
    from entrypoints.cli.client import connect
    from entrypoints.cli.cluster_file import written

    async with connect(server) as client:
        cluster = await read_cluster(client)
    typer.echo(written(cluster.spec), nl=False)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (apply, diff, export):
        app.command()(command)
