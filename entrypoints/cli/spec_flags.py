"""The flags that say how a model is deployed: of `deploy`, and of `simulate`, which asks what would be."""

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints

import typer

from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import pairs

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Strategy = Literal["spread", "binpack"]

FIELD_NAMES = {
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
    "distributed": "--distributed",
    "cpu_offload": "--cpu-offload",
    "gpu_layers": "--gpu-layers",
    "tensor_split": "--tensor-split",
    "min_compute_capability": "--min-compute-capability",
    "overcommit": "--overcommit",
    "priority": "--priority",
    "queue": "--queue",
    "min_replicas": "--min-replicas",
    "max_replicas": "--max-replicas",
    "idle_timeout": "--idle-timeout",
}
"""What a deployment's fields are called here."""


@dataclass(frozen=True)
class SpecFlags:
    """The flags as they were given; None (and False, of a plain switch) where they were not."""

    replicas: Annotated[int | None, typer.Option(help="Instances wanted.")] = None
    context: Annotated[int | None, typer.Option(help="Tokens a request may use.")] = None
    slots: Annotated[int | None, typer.Option(help="Requests that an instance answers at once.")] = None
    cache_type: Annotated[CacheType | None, typer.Option(help="Element type of the KV cache.")] = None
    cache_type_v: Annotated[CacheType | None, typer.Option(help="Of its values, where they differ from keys.")] = None
    flash_attn: Annotated[bool | None, typer.Option(help="Whether attention is computed piece by piece.")] = None
    kv_unified: Annotated[bool, typer.Option("--kv-unified", help="All requests share one KV cache.")] = False
    strategy: Annotated[Strategy | None, typer.Option(help="The emptiest device first, or the fullest.")] = None
    selector: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label that workers must have. Repeatable.")
    ] = None
    device: Annotated[
        list[str] | None, typer.Option(metavar="WORKER:KIND:N", help="Only there, like box-1:cuda:0. Repeatable.")
    ] = None
    distributed: Annotated[bool | None, typer.Option(help="Whether several workers may share the model.")] = None
    cpu_offload: Annotated[bool, typer.Option("--cpu-offload", help="CPUs may compute layers.")] = False
    gpu_layers: Annotated[int | None, typer.Option(help="So many of the model's layers on devices.")] = None
    tensor_split: Annotated[str | None, typer.Option(metavar="12,11,10", help="Layers of each device, in order.")] = (
        None
    )
    min_compute_capability: Annotated[
        str | None, typer.Option(metavar="8.0", help="NVIDIA devices must have it at least.")
    ] = None
    overcommit: Annotated[
        bool, typer.Option("--overcommit", help="Use the devices named, even where their memory does not suffice.")
    ] = False
    priority: Annotated[int | None, typer.Option(help="Higher is served first when room is short.")] = None
    queue: Annotated[int | None, typer.Option(help="Requests that may wait while all slots are taken.")] = None
    min_replicas: Annotated[
        int | None, typer.Option(help="Demand decides how many there are, and never fewer. 0: it sleeps when unused.")
    ] = None
    max_replicas: Annotated[int | None, typer.Option(help="The most that demand may ask for.")] = None
    idle_timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="So long fewer must have sufficed until there are fewer.")
    ] = None
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Serve embeddings instead of text.")] = False

    def body(self) -> dict[str, Any]:
        """What was given, as REST says it: all else gets its default from the server. Raises CliError."""
        options = {
            "context_length": self.context,
            "slots": self.slots,
            "cache_type": self.cache_type,
            "cache_type_v": self.cache_type_v,
            "flash_attention": self.flash_attn,
            "kv_unified": self.kv_unified or None,
            "embeddings": self.embeddings or None,
        }
        return _given(
            {
                "replicas": self.replicas,
                "options": _given(options) or None,
                "strategy": self.strategy,
                "worker_selector": pairs("--selector", self.selector or ()) or None,
                "devices": self.device or None,
                "distributed": self.distributed,
                "cpu_offload": self.cpu_offload or None,
                "gpu_layers": self.gpu_layers,
                "tensor_split": layers_of("--tensor-split", self.tensor_split),
                "min_compute_capability": self.min_compute_capability,
                "overcommit": self.overcommit or None,
                "priority": self.priority,
                "queue": self.queue,
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                "idle_timeout": self.idle_timeout,
            }
        )


def takes_spec_flags(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Gives a command the flags of SpecFlags in the place of its parameter `flags`."""
    own, hints = inspect.signature(command), get_type_hints(SpecFlags, include_extras=True)
    names = [field.name for field in fields(SpecFlags)]

    @functools.wraps(command)
    async def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in names}
        await command(**arguments, flags=SpecFlags(**given))

    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        if parameter.name != "flags":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for field in fields(SpecFlags):
            assert field.default is not MISSING  # noqa: S101  (a flag can be left out)
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
                )
            )
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # how inspect is told
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def layers_of(flag: str, text: str | None) -> list[int] | None:
    """`16,15` as numbers. Raises CliError naming the flag and what would be right."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 7 for part in parts):
        raise CliError(f"{flag} {text!r}: write the layers of each device, like 16,15", code=ExitCode.USAGE)
    return [int(part) for part in parts]


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    return {name: value for name, value in fields.items() if value is not None}
