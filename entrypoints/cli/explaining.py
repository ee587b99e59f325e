"""`stoker describe | why`."""

from typing import Annotated, Any

import typer

from entrypoints.cli import completing
from entrypoints.cli.flags import OutputOption, ServerOption, WatchOption, asynchronous

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The deployment's name.", autocompletion=completing.deployments)
]


@asynchronous
async def describe(
    name: NameArgument, watch: WatchOption = False, output: OutputOption = "table", server: ServerOption = None
) -> None:
    """Show everything about a deployment and its instances."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.listing import show_one
    from entrypoints.cli.views.deployments import deployment_description

    async with connect(server) as client:
        await show_one(
            client,
            path("deployments", name),
            lambda item: deployment_description(read_as(DeploymentRead, item)),
            watch=watch,
            output=output,
        )


@asynchronous
async def why(
    name: NameArgument, watch: WatchOption = False, output: OutputOption = "table", server: ServerOption = None
) -> None:
    """Explain in numbers where it was placed, or why it waits."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.listing import show_one
    from entrypoints.cli.views.explanation import explanation

    async with connect(server) as client:
        await show_one(
            client,
            path("deployments", name),
            lambda item: explanation(read_as(DeploymentRead, item)),
            watch=watch,
            output=output,
            told=_reasons,
        )


def _reasons(answer: Any) -> dict[str, Any]:
    """What scripts read of `why`."""
    told = ("id", "state", "message", "placement", "pending")
    instances = [{field: instance[field] for field in told} for instance in answer["instances"]]
    return {field: answer[field] for field in ("name", "state", "message")} | {"instances": instances}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (describe, why):
        app.command()(command)
