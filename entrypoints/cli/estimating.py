"""`stoker estimate`."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous
from entrypoints.cli.spec_flags import CacheType, layers_of

if TYPE_CHECKING:
    from api.schemas.estimates import EstimateCreate, MemoryEstimateRead
    from stoker.domain.gguf import ModelProfile, ProjectorProfile
    from stoker.domain.models import ModelFiles, ModelSource
    from stoker.remote_models import RemoteModels

OPTION_FLAGS = {
    "context_length": "--ctx",
    "slots": "--parallel",
    "cache_type": "--cache-type-k",
    "cache_type_v": "--cache-type-v",
    "flash_attention": "--flash-attn",
    "kv_unified": "--kv-unified",
    "batch": "--batch",
    "micro_batch": "--ubatch",
    "embeddings": "--embeddings",
}
"""What the engine's options are called here: as in llama.cpp, where it has them."""

_FIELD_NAMES = {
    "model": "SOURCE",
    "devices": "--devices",
    "split": "--split",
    "projector": "--mmproj",
    "draft": "--draft",
} | {f"options.{name}": flag for name, flag in OPTION_FLAGS.items()}


@asynchronous
async def estimate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="hf:ORG/REPO[:QUANT|/FILE.gguf], https://host/path.gguf, file:/path.gguf or a path."
        ),
    ],
    ctx: Annotated[int | None, typer.Option("--ctx", "--context", "-c", help="Tokens a request may use.")] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", "--slots", help="Requests answered at once.")] = None,
    cache_type_k: Annotated[
        CacheType | None, typer.Option("--cache-type-k", "--cache-type", help="Element type of the KV cache.")
    ] = None,
    cache_type_v: Annotated[CacheType | None, typer.Option(help="Of its values, where they differ from keys.")] = None,
    flash_attn: Annotated[bool | None, typer.Option(help="Whether attention is computed piece by piece.")] = None,
    kv_unified: Annotated[bool, typer.Option("--kv-unified", help="All requests share one KV cache.")] = False,
    batch: Annotated[int | None, typer.Option(help="Tokens of a logical batch.")] = None,
    ubatch: Annotated[int | None, typer.Option(help="Tokens computed at once.")] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Serve embeddings instead of text.")] = False,
    devices: Annotated[
        int | None, typer.Option(help="Equal GPUs that share the layers evenly; 0: the CPU alone. Default: 1.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="16,15", help="Layers of each device, the output layer counted as one.")
    ] = None,
    mmproj: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="A multimodal projector beside the model.")
    ] = None,
    draft: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="A draft model beside it, for speculative decoding.")
    ] = None,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Tell how much memory a model takes, from its header.

    No byte of its weights is downloaded. The header is read from here: no server is needed. A file: that is not on
    this machine is read by the workers of the server.
    """
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.estimates import estimate_view

    options: dict[str, Any] = {
        "context_length": ctx,
        "slots": parallel,
        "cache_type": cache_type_k,
        "cache_type_v": cache_type_v,
        "flash_attention": flash_attn,
        "kv_unified": kv_unified or None,
        "batch": batch,
        "micro_batch": ubatch,
        "embeddings": embeddings or None,
    }
    wanted: dict[str, Any] = {
        "model": _written_out(source),
        "options": _given(options) or None,
        "devices": devices,
        "split": layers_of("--split", split),
        "projector": _written_out(mmproj) if mmproj is not None else None,
        "draft": _written_out(draft) if draft is not None else None,
    }
    question = _question(_given(wanted))
    if _is_elsewhere(question.source(), named_as_file=source.startswith("file:")):
        read = await _asked(question, server)
    else:
        read = await _estimated_here(question)
    if output == "table":
        show(estimate_view(read))
    else:
        print_data(read.model_dump(mode="json"), output)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(estimate)


def _written_out(source: str) -> str:
    """A plain path as a `file:` source. Links keep their names: in the hub's cache, only these end in .gguf."""
    if not source or source.startswith(("hf:", "file:", "https:", "http:")):
        return source
    return f"file:{os.path.normpath(Path(source).expanduser().absolute())}"


def _question(wanted: dict[str, Any]) -> "EstimateCreate":
    """What is asked, checked as the server would. Raises CliError naming the flags."""
    from pydantic import ValidationError

    from api.schemas.estimates import EstimateCreate
    from entrypoints.cli.refusals import field_messages

    try:
        return EstimateCreate.model_validate(wanted)
    except ValidationError as error:
        fields = [
            {
                "field": ".".join(part for part in found["loc"] if isinstance(part, str)),
                "message": found["msg"].removeprefix("Value error, "),
                "value": found["input"] if isinstance(found["input"], int | str) else None,
            }
            for found in error.errors()
        ]
        messages = [message.removeprefix(": ") for message in field_messages(fields, _FIELD_NAMES)]
        raise CliError(*messages, code=ExitCode.USAGE) from error


def _is_elsewhere(source: "ModelSource", *, named_as_file: bool) -> bool:
    """Whether it is a file that this machine does not have; a plain path can only mean one here."""
    from stoker.domain.models import SourceKind

    return named_as_file and source.kind is SourceKind.FILE and not Path(source.path).exists()


async def _asked(question: "EstimateCreate", server: str | None) -> "MemoryEstimateRead":
    """What the server says."""
    from api.schemas.estimates import MemoryEstimateRead
    from entrypoints.cli.client import connect, path, read_as

    typer.echo(f"{question.source().path} is not on this machine: asking the workers", err=True)
    async with connect(server) as client:
        body = question.model_dump(mode="json", exclude_unset=True)
        return read_as(MemoryEstimateRead, await client.call("POST", path("estimates"), body, field_names=_FIELD_NAMES))


async def _estimated_here(question: "EstimateCreate") -> "MemoryEstimateRead":
    from api.schemas.deployments import checked_source
    from api.schemas.estimates import MemoryEstimateRead
    from entrypoints.cli.refusals import EXIT_CODES
    from stoker.domain.estimation.assessment import assess
    from stoker.domain.estimation.types import EstimateRefusal
    from stoker.model_source_error import ModelSourceError

    try:
        files, profile = await _inspected(question.source())
        projector = await _projector(checked_source(question.projector)) if question.projector else None
        draft = (await _inspected(checked_source(question.draft)))[1] if question.draft else None
    except ModelSourceError as error:
        message = str(error).replace("on the server", "here")
        raise CliError(message, code=EXIT_CODES.get(error.code, ExitCode.FAILED)) from error
    options = question.engine_options()
    split = question.split or ()
    outcome = assess(profile, options, devices=question.devices, split=split, projector=projector, draft=draft)
    if isinstance(outcome, EstimateRefusal):
        raise CliError(_with_flags(outcome.message))
    return MemoryEstimateRead.of(question.model, files, profile, options, outcome)


def _with_flags(message: str) -> str:
    """A refusal of the estimate, with our flags for the options that it names. One word may be just a word."""
    for name, flag in OPTION_FLAGS.items():
        told = name if "_" in name else rf"{name}(?= to \d)"
        message = re.sub(rf"\b{told}\b(?: to true)?", flag, message)
    return message


async def _inspected(source: "ModelSource") -> "tuple[ModelFiles, ModelProfile]":
    from stoker.domain.models import SourceKind

    if source.kind is SourceKind.FILE:
        from stoker.local_models import inspect_here

        return inspect_here(source)

    return await _remote().inspect(source)


async def _projector(source: "ModelSource") -> "ProjectorProfile":
    from stoker.domain.models import SourceKind

    if source.kind is SourceKind.FILE:
        from stoker.local_models import inspect_projector_here

        return inspect_projector_here(source)
    return await _remote().inspect_projector(source)


def _remote() -> "RemoteModels":
    from entrypoints.cli.settings_flags import settings_from
    from entrypoints.data_folder import header_cache
    from stoker.remote_models import remote_models

    settings = settings_from({})
    return remote_models(header_cache(settings), allow_private_urls=settings.urls.allow_private)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what was not given: it gets its default."""
    return {name: value for name, value in fields.items() if value is not None}
