"""`stoker routes [ls] | routes set | routes rm`."""

from typing import Annotated, Any

import typer

from entrypoints.cli import completing
from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="What clients write into `model`: gpt-4o, org/name.", autocompletion=completing.routes
    ),
]


@asynchronous
async def ls(output: OutputOption = "table", server: ServerOption = None) -> None:
    """List routes (the default): names that clients may use for deployments."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.routes import routes_table

    async with connect(server) as client:
        await show_listing(client, "routes", "name", routes_table, watch=False, output=output)


@asynchronous
async def set_route(
    name: NameArgument,
    to: Annotated[
        list[str],
        typer.Option(metavar="DEPLOYMENT[=WEIGHT]", help="Where it leads, with its share (1). Repeatable: a canary."),
    ],
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEPLOYMENT[:STATUS,…]",
            help="Asked next when those before failed, with one of these statuses. Repeatable, in order.",
        ),
    ] = None,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Make a route, or replace the one of that name."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.routes import routes_table

    targets = [target_of(text) for text in to]
    fallbacks = [fallback_of(text) for text in fallback or ()]
    body = {"targets": targets, "fallbacks": fallbacks}
    names = {"name": "NAME", "targets": "--to", "fallbacks": "--fallback"}
    for field, flag, given in (("targets", "--to", targets), ("fallbacks", "--fallback", fallbacks)):
        for index, fields in enumerate(given):
            names |= {f"{field}.{index}.{inner}": f"{flag} {fields['deployment']}" for inner in fields}
    async with connect(server) as client:
        answer = await client.call("PUT", path("routes", name), body, field_names=names)
    if output == "table":
        show(routes_table([answer]))
    else:
        print_data(answer, output)


@asynchronous
async def rm(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="The routes' names.", autocompletion=completing.routes)
    ],
    server: ServerOption = None,
) -> None:
    """Remove routes. The deployments that they led to go on."""
    from entrypoints.cli.client import connect, path

    async with connect(server) as client:
        for name in names:
            await client.call("DELETE", path("routes", name))
            typer.echo(f"{name}: removed")


def target_of(text: str) -> dict[str, Any]:
    """`llama=9` as REST says it. Raises CliError naming the flag and what would be right."""
    deployment, equals, weight = text.partition("=")
    if not deployment or (equals and not _is_number(weight)):
        raise CliError(f"--to {text!r}: write DEPLOYMENT or DEPLOYMENT=WEIGHT, like llama=9", code=ExitCode.USAGE)
    return {"deployment": deployment, **({"weight": int(weight)} if equals else {})}


def fallback_of(text: str) -> dict[str, Any]:
    """`smol:502,503` as REST says it. Raises CliError naming the flag and what would be right."""
    deployment, colon, statuses = text.partition(":")
    given = [status.strip() for status in statuses.split(",")] if colon else []
    if not deployment or not all(_is_number(status) for status in given):
        message = f"--fallback {text!r}: write DEPLOYMENT or DEPLOYMENT:STATUS,STATUS, like smol:502,503"
        raise CliError(message, code=ExitCode.USAGE)
    return {"deployment": deployment, **({"statuses": [int(status) for status in given]} if colon else {})}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="Other names for deployments: aliases, shares, fallbacks.")
    group.command()(ls)
    group.command("set")(set_route)
    group.command()(rm)
    app.add_typer(group, name="routes")
