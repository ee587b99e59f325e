"""`stoker keys [ls] | keys create | keys set | keys revoke`."""

from typing import Annotated, Literal

import typer

from entrypoints.cli import completing
from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous
from entrypoints.cli.key_flags import (
    FIELD_NAMES,
    ConcurrencyOption,
    ExpiresOption,
    ModelOption,
    MonthOption,
    RpmOption,
    TpmOption,
    key_body,
)

Role = Literal["user", "admin"]

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="As `stoker keys` lists it.", autocompletion=completing.keys)
]


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
    role: Annotated[Role, typer.Option(help="user: /v1 only. admin: everything.")] = "user",
    expires: ExpiresOption = None,
    model: ModelOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    tokens_per_month: MonthOption = None,
    concurrency: ConcurrencyOption = None,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Make a key. It is printed now and can never be shown again."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data

    body = {"name": name, "role": role} | key_body(
        expires=expires, models=model, rpm=rpm, tpm=tpm, tokens_per_month=tokens_per_month, concurrency=concurrency
    )
    async with connect(server) as client:
        answer = await client.call("POST", path("keys"), body, field_names=FIELD_NAMES)
    if output != "table":
        print_data(answer, output)
        return
    typer.echo(f"key {answer['id']} ({answer['role']}), shown this once:", err=True)
    typer.echo(answer["key"])


@asynchronous
async def change(
    key_id: IdArgument,
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    expires: ExpiresOption = None,
    model: ModelOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    tokens_per_month: MonthOption = None,
    concurrency: ConcurrencyOption = None,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Change what a key may do. What is not named stays; `none` lifts a limit."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.keys import keys_table

    body = key_body(
        expires=expires, models=model, rpm=rpm, tpm=tpm, tokens_per_month=tokens_per_month, concurrency=concurrency
    )
    if name is not None:
        body["name"] = name
    if not body:
        raise CliError("nothing to change: name at least one of the flags, like --rpm 60", code=ExitCode.USAGE)
    async with connect(server) as client:
        answer = await client.call("PATCH", path("keys", key_id), body, field_names=FIELD_NAMES | {"name": "--name"})
    if output != "table":
        print_data(answer, output)
        return
    show(keys_table([answer]))


@asynchronous
async def revoke(key_id: IdArgument, server: ServerOption = None) -> None:
    """Revoke a key for good."""
    from entrypoints.cli.client import connect, path

    async with connect(server) as client:
        await client.call("DELETE", path("keys", key_id))
    typer.echo(f"{key_id}: revoked")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="API keys: list, create, change, revoke.")
    for command, name in ((ls, "ls"), (create, "create"), (change, "set"), (revoke, "revoke")):
        group.command(name)(command)
    app.add_typer(group, name="keys")
