"""`stoker simulate`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from entrypoints.cli import completing
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous
from entrypoints.cli.spec_flags import FIELD_NAMES, SpecFlags, takes_spec_flags

if TYPE_CHECKING:
    from entrypoints.cli.client import StokerClient

_NO_NAME = "simulated"
"""What a model is called that is only thought of."""

_FIELD_NAMES = {f"deployment.{field}": flag for field, flag in FIELD_NAMES.items()} | {
    "deployment.model": "MODEL",
    "name": "NAME",
    "drain": "--drain",
    "add": "--add",
    "without": "--without",
}


@asynchronous
@takes_spec_flags
async def simulate(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|MODEL",
            help="A deployment, or a model: hf:ORG/REPO[:QUANT|/FILE.gguf] or file:/path.gguf.",
            autocompletion=completing.deployments,
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="4x24GiB", help="With one more machine; 2x80GiB+256GiB: with so much RAM. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="WORKER", help="Without it. Repeatable.", autocompletion=completing.workers),
    ] = None,
    drain: Annotated[
        str | None,
        typer.Option(
            metavar="WORKER", help="Instead: where this worker's instances would go.", autocompletion=completing.workers
        ),
    ] = None,
    *,
    flags: SpecFlags,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Tell where a deployment would go, without starting it.

    Or what draining a worker would move. Exit code 0 when all of it fits, 1 when not. A deployment is looked at as if
    it were placed anew; with flags, as if it were changed so.
    """
    from api.schemas.placements import WhatIfRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.what_if import drain_view, simulation_view

    async with connect(server) as client:
        asked = await _question(client, target, drain, flags)
        body = asked | {"add": add or [], "without": without or []}
        answer = await client.call("POST", path("placements"), body, field_names=_FIELD_NAMES)
    read = read_as(WhatIfRead, answer)
    if output == "table":
        show(drain_view(drain, read) if drain is not None else simulation_view(target or "", read))
    else:
        print_data(answer, output)
    if not read.fits:
        raise typer.Exit(ExitCode.FAILED)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(simulate)


async def _question(client: "StokerClient", target: str | None, drain: str | None, flags: SpecFlags) -> dict[str, Any]:
    """What is asked of the server, without the machines. Raises CliError."""
    given = flags.body()
    if drain is not None:
        if target is not None or given:
            raise CliError("--drain moves what a worker holds, as it is: leave out all else", code=ExitCode.USAGE)
        return {"drain": drain}
    if target is None:
        raise CliError(
            "nothing to simulate: name a deployment, a model or --drain WORKER",
            code=ExitCode.USAGE,
            hint="stoker simulate hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M --add 2x24GiB",
        )
    if ":" in target or "/" in target:
        return {"deployment": {"name": _NO_NAME, "model": target, **given}}
    return {"deployment": await _changed(client, target, given)} if given else {"name": target}


async def _changed(client: "StokerClient", name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The deployment of that name with the changes on top, options one by one."""
    from api.schemas.deployments import DeploymentCreate
    from entrypoints.cli.client import path

    now = await client.get(path("deployments", name))
    kept = {field: now[field] for field in DeploymentCreate.model_fields if field in now}
    return kept | changes | {"options": kept["options"] | changes.get("options", {})}
