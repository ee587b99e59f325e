"""`stoker rollout status | history | undo`."""

from typing import Annotated

import typer

from entrypoints.cli.deployments import NameArgument
from entrypoints.cli.flags import OutputOption, ServerOption, TimeoutOption, asynchronous


@asynchronous
async def status(
    name: NameArgument,
    wait: Annotated[bool, typer.Option(help="Wait until it is rolled out, or rolled back.")] = False,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Tell how far the last change of a deployment has come."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.rollouts import rollout_status
    from entrypoints.cli.waiting import Goal, wait_until_running

    async with connect(server) as client:
        answer = await client.get(path("deployments", name))
        read = read_as(DeploymentRead, answer)
        if wait:
            from entrypoints.cli.progress import display

            goal = Goal(generation=read.generation, exactly=True)
            with display() as shown:
                await wait_until_running(client, name, goal, timeout=timeout, display=shown)
            answer = await client.get(path("deployments", name))
            read = read_as(DeploymentRead, answer)
    if output == "table":
        show(rollout_status(read))
    else:
        print_data(answer, output)


@asynchronous
async def history(name: NameArgument, output: OutputOption = "table", server: ServerOption = None) -> None:
    """List what it was made to be, change by change, by whom."""
    from api.schemas.rollouts import RevisionsRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.rollouts import revisions_table

    async with connect(server) as client:
        answer = await client.get(path("deployments", name, "revisions"))
    if output == "table":
        show(revisions_table(read_as(RevisionsRead, answer).data))
    else:
        print_data(answer["data"], output)


@asynchronous
async def undo(
    name: NameArgument,
    to: Annotated[
        int | None, typer.Option(metavar="GENERATION", help="Of a revision; else the last before this one that ran.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it runs.")] = True,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Make an earlier revision of a deployment wanted again. It rolls as every change does."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.deployments import finish
    from entrypoints.cli.waiting import Goal

    async with connect(server) as client:
        body = {"generation": to} if to is not None else {}
        answer = await client.call("POST", path("deployments", name, "undo"), body, field_names={"generation": "--to"})
        after = read_as(DeploymentRead, answer)
        typer.echo(f"{name}: wanted as before, now generation {after.generation}", err=True)
        goal = Goal(generation=after.generation)
        await finish(client, answer, goal, wait=wait, timeout=timeout, output=output)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    rollout = typer.Typer(help="Changes: how one rolls out, what they were, taking one back.", no_args_is_help=True)
    for command in (status, history, undo):
        rollout.command()(command)
    app.add_typer(rollout, name="rollout")
