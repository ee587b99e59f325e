"""`stoker files evict`: which models go, the question, and what became of each."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import typer

from api.schemas.files import EvictedRead, StoredModelRead
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import print_data, show
from entrypoints.cli.printable import printable
from entrypoints.cli.refusals import RefusedError
from entrypoints.cli.views.files import files_table
from stoker.domain.files import StoredModel, choose_by_age, choose_for_room
from stoker.domain.reports import StoredFile
from stoker.domain.units import format_bytes, parse_bytes, parse_duration

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """What an administrator wants to be gone: exactly one of a model, an age in seconds, and bytes on a worker."""

    model: str | None = None
    worker: str | None = None
    older_than: float | None = None
    free: int | None = None
    force: bool = False


def parse_choice(
    *, model: str | None, worker: str | None, older_than: str | None, free: str | None, force: bool
) -> Choice:
    """The choice as it was typed. Raises CliError (USAGE) where it is none."""
    if sum(one is not None for one in (model, older_than, free)) != 1:
        raise CliError("name one of MODEL, --older-than TIME and --free SIZE", code=ExitCode.USAGE)
    if free is not None and worker is None:
        raise CliError("--free makes room on one worker: name it with --worker", code=ExitCode.USAGE)
    if force and model is None:
        raise CliError("--force is for one MODEL by its name", code=ExitCode.USAGE)
    return Choice(
        model=model,
        worker=worker,
        older_than=_parsed("--older-than", older_than, parse_duration),
        free=_parsed("--free", free, parse_bytes),
        force=force,
    )


def choose(items: Sequence[StoredModelRead], choice: Choice, now: float) -> list[StoredModelRead]:
    """Those of `items` that go. `now` is in Unix seconds. Raises CliError where the choice cannot be met."""
    if choice.model is not None:
        return _named(items, choice.model)
    by_worker: dict[str, dict[str, StoredModelRead]] = {}
    for item in items:
        by_worker.setdefault(item.worker, {})[item.model] = item
    chosen: list[StoredModelRead] = []
    for models in by_worker.values():
        stored = [_stored(item) for item in models.values()]
        if choice.older_than is not None:
            found: Sequence[StoredModel] | None = choose_by_age(stored, used_before=now - choice.older_than)
        else:
            found = choose_for_room(stored, lacking=choice.free or 0)
        chosen += [models[model.model] for model in found or ()]
    if choice.free and not chosen:
        most = sum(item.stored_bytes for item in items if item.own and not item.in_use)
        raise CliError(
            f"{choice.worker} has {format_bytes(most)} of models that Stoker fetched and nobody uses, and "
            f"{format_bytes(choice.free)} are wanted",
            hint=f"see `stoker files --worker {choice.worker}`",
        )
    return chosen


async def evict_models(client: StokerClient, choice: Choice, *, yes: bool, dry_run: bool, output: OutputFormat) -> None:
    """Shows what goes, asks, and takes it away, model by model. Raises CliError when one of them stays."""
    asked = {"worker": choice.worker} if choice.worker is not None else {}
    if choice.worker is not None:
        await client.get(path("workers", choice.worker))  # a name that is none is an error, and not an empty disk
    items = [read_as(StoredModelRead, item) for item in await client.all(path("files"), **asked)]
    chosen = choose(items, choice, time.time())
    if output == "table" and chosen:
        show(files_table([item.model_dump(mode="json") for item in chosen]))
    if not chosen:
        typer.echo("nothing to evict", err=True)
    if chosen and not (dry_run or yes) and sys.stdin.isatty() and sys.stdout.isatty():
        total = format_bytes(sum(item.stored_bytes for item in chosen))
        typer.confirm(f"take {total} off the disks?", abort=True, err=True)
    if dry_run:
        if output != "table":
            print_data([item.model_dump(mode="json") for item in chosen], output)
        return
    gone, stayed = await _evict(client, chosen, choice, output)
    if output != "table":
        print_data([one.model_dump(mode="json") for one in gone], output)
    if stayed:
        raise CliError(*(str(error) for error in stayed), code=stayed[0].code, hint=stayed[0].hint)


async def _evict(
    client: StokerClient, chosen: Sequence[StoredModelRead], choice: Choice, output: OutputFormat
) -> tuple[list[EvictedRead], list[RefusedError]]:
    gone: list[EvictedRead] = []
    stayed: list[RefusedError] = []
    for item in chosen:
        try:
            answer = await client.call("DELETE", path("files", item.worker, item.model), query={"force": choice.force})
        except RefusedError as error:
            stayed.append(error)
            continue
        gone.append(read_as(EvictedRead, answer))
        if output == "table":
            freed = format_bytes(gone[-1].freed_bytes)
            typer.echo(printable(f"{item.worker}: {item.model} is gone, {freed} are free"))
    return gone, stayed


def _named(items: Sequence[StoredModelRead], text: str) -> list[StoredModelRead]:
    exact = [item for item in items if text in (item.model, item.model.removeprefix("hf:"))]
    found = exact or [item for item in items if text.removeprefix("hf:") in item.model]
    names = sorted({item.model for item in found})
    if not names:
        raise CliError(
            f"no worker has a model {text!r} on its disk", code=ExitCode.NOT_FOUND, hint="see `stoker files`"
        )
    if len(names) > 1:
        raise CliError(f"{text!r} is a part of several: {', '.join(names)}", code=ExitCode.USAGE)
    return found


def _stored(item: StoredModelRead) -> StoredModel:
    files = tuple(
        StoredFile(model=item.model, path=file.path, size=file.size_bytes, done=file.stored_bytes)
        for file in item.files
    )
    used_at = item.used_at.timestamp() if item.used_at is not None else None
    return StoredModel(model=item.model, files=files, used_at=used_at, in_use=item.in_use, own=item.own)


def _parsed(flag: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise CliError(f"{flag}: {error}", code=ExitCode.USAGE) from error
