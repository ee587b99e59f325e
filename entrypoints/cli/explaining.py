"""`stoker describe | why`."""

from typing import Annotated

import typer

from entrypoints.cli import completing
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The deployment's name.", autocompletion=completing.deployments)
]


@asynchronous
async def describe(name: NameArgument, output: OutputOption = "table", server: ServerOption = None) -> None:
    """Show everything about a deployment and its instances."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.deployments import deployment_description

    async with connect(server) as client:
        answer = await client.get(path("deployments", name))
    if output == "table":
        show(deployment_description(read_as(DeploymentRead, answer)))
    else:
        print_data(answer, output)


@asynchronous
async def why(name: NameArgument, output: OutputOption = "table", server: ServerOption = None) -> None:
    """Explain in numbers where it was placed, or why it waits."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.explanation import explanation

    async with connect(server) as client:
        answer = await client.get(path("deployments", name))
    if output == "table":
        show(explanation(read_as(DeploymentRead, answer)))
        return
    told = ("id", "state", "message", "placement", "pending")
    instances = [{field: instance[field] for field in told} for instance in answer["instances"]]
    print_data({field: answer[field] for field in ("name", "state", "message")} | {"instances": instances}, output)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (describe, why):
        app.command()(command)
