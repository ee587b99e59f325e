"""`stoker keys [ls] | keys create | keys revoke`."""

from typing import Annotated, Literal

import typer

from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous

Role = Literal["inference", "admin"]


@asynchronous
async def ls(output: OutputOption = "table", server: ServerOption = None) -> None:
    """List keys (the default): never the keys themselves."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.keys import keys_table

    async with connect(server) as client:
        await show_listing(client, "keys", "id", keys_table, watch=False, output=output)


@asynchronous
async def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    role: Annotated[Role, typer.Option(help="inference: /v1 only. admin: everything.")] = "inference",
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Make a key. It is printed now and can never be shown again."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data

    async with connect(server) as client:
        body = {"name": name, "role": role}
        answer = await client.call("POST", path("keys"), body, field_names={"name": "NAME", "role": "--role"})
    if output != "table":
        print_data(answer, output)
        return
    typer.echo(f"key {answer['id']} ({answer['role']}), shown this once:", err=True)
    typer.echo(answer["key"])


@asynchronous
async def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `stoker keys` lists it.")], server: ServerOption = None
) -> None:
    """Revoke a key for good."""
    from entrypoints.cli.client import connect, path

    async with connect(server) as client:
        await client.call("DELETE", path("keys", key_id))
    typer.echo(f"{key_id}: revoked")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="API keys: list, create, revoke.")
    for command in (ls, create, revoke):
        group.command()(command)
    app.add_typer(group, name="keys")
