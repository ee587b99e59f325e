"""`stoker deploy | ps | scale | rm`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entrypoints.cli import completing
from entrypoints.cli.flags import (
    OutputFormat,
    OutputOption,
    ServerOption,
    TimeoutOption,
    WatchOption,
    asynchronous,
)
from entrypoints.cli.spec_flags import FIELD_NAMES, SpecFlags, takes_spec_flags

if TYPE_CHECKING:
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import StokerClient
    from entrypoints.cli.waiting import Goal

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The deployment's name.", autocompletion=completing.deployments)
]


@asynchronous
@takes_spec_flags
async def deploy(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="What clients call the model: a DNS label.", autocompletion=completing.deployments
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SOURCE", help="hf:ORG/REPO[:QUANT|/FILE.gguf] or file:/path.gguf")
    ],
    flags: SpecFlags,
    wait: Annotated[bool, typer.Option(help="Wait until it runs.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would do, and do nothing.")] = False,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Deploy a model, or change a deployment.

    What is not given gets its default, also where a deployment of that name had something else.
    """
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.planning import show_plan, tell_plan
    from entrypoints.cli.refusals import RefusedError
    from entrypoints.cli.waiting import Goal

    wanted = {"name": name, "model": model, **flags.body()}
    async with connect(server) as client:
        try:
            before = read_as(DeploymentRead, await client.get(path("deployments", name)))
        except RefusedError as error:
            if error.status not in (404, 422):  # a name that is none is refused below, by its field
                raise
            before = None
        if dry_run:
            await show_plan(client, wanted, output=output)
            return
        if before is not None:
            await tell_plan(client, wanted)
        answer = await client.call("POST", path("deployments"), wanted, field_names=FIELD_NAMES)
        after = read_as(DeploymentRead, answer)
        typer.echo(f"{name}: {_what_changed(before, after)}", err=True)
        goal = Goal(generation=after.generation)
        await finish(client, answer, goal, wait=wait, timeout=timeout, output=output)


@asynchronous
async def scale(
    name: NameArgument,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", help="Instances wanted.")],
    wait: Annotated[bool, typer.Option(help="Wait until so many run, and no more.")] = False,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Change how many instances a deployment has. Where demand decides, it goes on from there."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.waiting import Goal

    async with connect(server) as client:
        answer = await client.call(
            "PATCH", path("deployments", name), {"replicas": replicas}, field_names={"replicas": "REPLICAS"}
        )
        after = read_as(DeploymentRead, answer)
        typer.echo(f"{name}: {after.wanted} replica{'' if after.wanted == 1 else 's'} wanted", err=True)
        goal = Goal(generation=after.generation, exactly=True)
        await finish(client, answer, goal, wait=wait, timeout=timeout, output=output)


@asynchronous
async def ps(watch: WatchOption = False, output: OutputOption = "table", server: ServerOption = None) -> None:
    """List deployments."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.deployments import deployments_table

    async with connect(server) as client:
        await show_listing(client, "deployments", "name", deployments_table, watch=watch, output=output)


@asynchronous
async def rm(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="The deployments' names.", autocompletion=completing.deployments)
    ],
    wait: Annotated[bool, typer.Option(help="Wait until all of it is gone.")] = True,
    timeout: TimeoutOption = 300,
    server: ServerOption = None,
) -> None:
    """Delete deployments. Running requests may finish, then their memory is given back."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.waiting import wait_until_gone

    async with connect(server) as client:
        for name in names:
            await client.call("DELETE", path("deployments", name))
            if not wait:
                typer.echo(f"{name}: being deleted")
        for name in names if wait else ():
            await wait_until_gone(client, name, timeout=timeout)
            typer.echo(f"{name}: deleted")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (deploy, ps, scale, rm):
        app.command()(command)


async def finish(
    client: "StokerClient",
    answer: Any,
    goal: "Goal",
    *,
    wait: bool,
    timeout: float,
    output: OutputFormat,
) -> None:
    """Waits if that is asked for, and prints the deployment as it then is."""
    import asyncio

    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.progress import display
    from entrypoints.cli.views.deployments import outcome
    from entrypoints.cli.waiting import wait_until_running

    name = answer["name"]
    if wait:
        try:
            with display() as shown:
                await wait_until_running(client, name, goal, timeout=timeout, display=shown)
        except asyncio.CancelledError:
            typer.echo(f"{name} goes on by itself: see `stoker ps`", err=True)
            raise
        answer = await client.get(path("deployments", name))
    if output == "table":
        show(outcome(read_as(DeploymentRead, answer)))
    else:
        print_data(answer, output)


def _what_changed(before: "DeploymentRead | None", after: "DeploymentRead") -> str:
    if before is None:
        return f"created, {after.model}"
    if before.generation == after.generation:
        return "is as asked for already"
    return f"changed, now generation {after.generation}"
