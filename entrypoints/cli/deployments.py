"""`stoker deploy | ps | scale | rm`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from entrypoints.cli.flags import (
    OutputFormat,
    OutputOption,
    ServerOption,
    TimeoutOption,
    WatchOption,
    asynchronous,
    pairs,
)

if TYPE_CHECKING:
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import StokerClient
    from entrypoints.cli.waiting import Goal

_FIELD_NAMES = {
    "name": "NAME",
    "model": "--model",
    "replicas": "--replicas",
    "options.context_length": "--context",
    "options.slots": "--slots",
    "options.cache_type": "--cache-type",
    "options.cache_type_v": "--cache-type-v",
    "options.flash_attention": "--flash-attn",
    "options.kv_unified": "--kv-unified",
    "options.embeddings": "--embeddings",
    "strategy": "--strategy",
    "worker_selector": "--selector",
    "devices": "--device",
    "cpu_offload": "--cpu-offload",
    "priority": "--priority",
}

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The deployment's name.")]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Strategy = Literal["spread", "binpack"]


@asynchronous
async def deploy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What clients call the model: a DNS label.")],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SOURCE", help="hf:ORG/REPO[:QUANT|/FILE.gguf] or file:/path.gguf")
    ],
    replicas: Annotated[int | None, typer.Option(help="Instances wanted.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens a request may use.")] = None,
    slots: Annotated[int | None, typer.Option(help="Requests that an instance answers at once.")] = None,
    cache_type: Annotated[CacheType | None, typer.Option(help="Element type of the KV cache.")] = None,
    cache_type_v: Annotated[CacheType | None, typer.Option(help="Of its values, where they differ from keys.")] = None,
    flash_attn: Annotated[bool | None, typer.Option(help="Whether attention is computed piece by piece.")] = None,
    kv_unified: Annotated[bool, typer.Option("--kv-unified", help="All requests share one KV cache.")] = False,
    strategy: Annotated[Strategy | None, typer.Option(help="The emptiest device first, or the fullest.")] = None,
    selector: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label that workers must have. Repeatable.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(metavar="WORKER/DEVICE", help="Only there, like box-1/gpu0. Repeatable.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher is served first when room is short.")] = None,
    cpu_offload: Annotated[bool, typer.Option("--cpu-offload", help="A host with GPUs may use its CPU.")] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Serve embeddings instead of text.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it runs.")] = True,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Deploy a model, or change a deployment.

    What is not given gets its default, also where a deployment of that name had something else.
    """
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.refusals import RefusedError
    from entrypoints.cli.waiting import Goal

    options = {
        "context_length": context,
        "slots": slots,
        "cache_type": cache_type,
        "cache_type_v": cache_type_v,
        "flash_attention": flash_attn,
        "kv_unified": kv_unified or None,
        "embeddings": embeddings or None,
    }
    wanted: dict[str, Any] = {
        "name": name,
        "model": model,
        "replicas": replicas,
        "options": _given(options) or None,
        "strategy": strategy,
        "worker_selector": pairs("--selector", selector or ()) or None,
        "devices": device or None,
        "cpu_offload": cpu_offload or None,
        "priority": priority,
    }
    async with connect(server) as client:
        try:
            before = read_as(DeploymentRead, await client.get(path("deployments", name)))
        except RefusedError as error:
            if error.status not in (404, 422):  # a name that is none is refused below, by its field
                raise
            before = None
        answer = await client.call("POST", path("deployments"), _given(wanted), field_names=_FIELD_NAMES)
        after = read_as(DeploymentRead, answer)
        typer.echo(f"{name}: {_what_changed(before, after)}", err=True)
        goal = Goal(generation=after.generation, replicas=after.replicas)
        await _finish(client, answer, goal, wait=wait, timeout=timeout, output=output)


@asynchronous
async def scale(
    name: NameArgument,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", help="Instances wanted.")],
    wait: Annotated[bool, typer.Option(help="Wait until so many run, and no more.")] = False,
    timeout: TimeoutOption = 3600,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Change how many instances a deployment has."""
    from api.schemas.deployments import DeploymentRead
    from entrypoints.cli.client import connect, path, read_as
    from entrypoints.cli.waiting import Goal

    async with connect(server) as client:
        answer = await client.call(
            "PATCH", path("deployments", name), {"replicas": replicas}, field_names={"replicas": "REPLICAS"}
        )
        after = read_as(DeploymentRead, answer)
        typer.echo(f"{name}: {replicas} replica{'' if replicas == 1 else 's'} wanted", err=True)
        goal = Goal(generation=after.generation, replicas=replicas, exactly=True)
        await _finish(client, answer, goal, wait=wait, timeout=timeout, output=output)


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
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The deployments' names.")],
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


async def _finish(
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


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what was not given: its default is the server's to know."""
    return {name: value for name, value in fields.items() if value is not None}
