"""`stoker workers [ls] | describe | cordon | uncordon | drain | remove | token | tokens | revoke-token`."""

from typing import Annotated

import typer

from entrypoints.cli import completing
from entrypoints.cli.default_command import ListsByDefault
from entrypoints.cli.flags import (
    OutputFormat,
    OutputOption,
    ServerOption,
    TimeoutOption,
    WatchOption,
    asynchronous,
    pairs,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The worker's name.", autocompletion=completing.workers)
]


@asynchronous
async def ls(watch: WatchOption = False, output: OutputOption = "table", server: ServerOption = None) -> None:
    """List workers (the default), after any alarm about them."""
    from entrypoints.cli.alarms import show_alarms
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.workers import workers_table

    async with connect(server) as client:
        await show_alarms(client)
        await show_listing(client, "workers", "name", workers_table, watch=watch, output=output)


@asynchronous
async def describe(
    name: NameArgument,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Show a worker's devices, claims and instances."""
    from api.schemas.instances import InstanceRead
    from api.schemas.workers import WorkerRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.workers import worker_description

    async with connect(server) as client:
        answer = await client.get(path("workers", name))
        if output != "table":
            print_data(answer, output)
            return
        instances = [read_as(InstanceRead, item) for item in await client.all(path("instances"))]
    here = [item for item in instances if item.placement is not None and name in item.placement.workers]
    show(worker_description(read_as(WorkerRead, answer), here))


@asynchronous
async def cordon(name: NameArgument, output: OutputOption = "table", server: ServerOption = None) -> None:
    """Give the worker nothing new. It keeps what it has."""
    await _tell(name, "cordon", output, server)


@asynchronous
async def uncordon(name: NameArgument, output: OutputOption = "table", server: ServerOption = None) -> None:
    """Give the worker new instances again; a drain is called off."""
    await _tell(name, "uncordon", output, server)


@asynchronous
async def drain(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would move.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the worker is empty.")] = True,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Move the worker's instances elsewhere, one by one.

    It gets nothing new from then on. Where there is room, each instance is started anew before it is stopped. What
    would move is shown first; without a terminal, what would stop something needs --yes.
    """
    from entrypoints.cli.client import connect
    from entrypoints.cli.draining import drain_worker

    async with connect(server) as client:
        await drain_worker(client, name, yes=yes, dry_run=dry_run, wait=wait, timeout=timeout, output=output)


@asynchronous
async def remove(
    name: NameArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that is not empty: its instances are started anew elsewhere.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Take the worker out of the cluster.

    Its certificates are revoked. Drain it first, or use --force: what that means for its instances is shown. To come
    back the worker must join again.
    """
    from entrypoints.cli.client import connect
    from entrypoints.cli.removing import remove_worker

    async with connect(server) as client:
        await remove_worker(client, name, force=force, yes=yes, output=output)


@asynchronous
async def token(
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it can be used: 30m, 1h, 7d.")] = "1h",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="A label of the worker that uses it. Repeatable."),
    ] = None,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Make a token with which one other machine joins. It is printed now and can never be shown again."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.joining import make_token

    async with connect(server) as client:
        await make_token(client, ttl=ttl, labels=pairs("--label", label or ()), output=output)


@asynchronous
async def tokens(output: OutputOption = "table", server: ServerOption = None) -> None:
    """List the tokens that were made, and who used them."""
    from entrypoints.cli.client import connect
    from entrypoints.cli.listing import show_listing
    from entrypoints.cli.views.join_tokens import join_tokens_table

    async with connect(server) as client:
        await show_listing(client, "join-tokens", "id", join_tokens_table, watch=False, output=output)


@asynchronous
async def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `stoker workers tokens` lists it.")],
    server: ServerOption = None,
) -> None:
    """Take a token back. A worker that joined with it stays."""
    from entrypoints.cli.client import connect, path

    async with connect(server) as client:
        await client.call("DELETE", path("join-tokens", token_id))
    typer.echo(f"{token_id}: revoked")


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=ListsByDefault, help="GPU hosts: list, describe, empty, add and remove them.")
    for command in (ls, describe, cordon, uncordon, drain, remove, token, tokens, revoke_token):
        group.command()(command)
    app.add_typer(group, name="workers")


async def _tell(name: str, what: str, output: OutputFormat, server: str | None) -> None:
    """Changes how the worker stands, and says how it does then."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data

    async with connect(server) as client:
        answer = await client.call("POST", path("workers", name, what))
    if output == "table":
        typer.echo(f"{name}: {answer['state']}")
    else:
        print_data(answer, output)
