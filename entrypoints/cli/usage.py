"""`stoker usage`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import typer

from entrypoints.cli import completing
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous

By = Literal["model", "key", "hour", "day", "status"]

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@asynchronous
async def usage(
    by: Annotated[By, typer.Option(help="What a line stands for.")] = "model",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From then on: 24h, 7d, 2026-03-01, 2026-03-01T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DEPLOYMENT", help="Only this deployment's.", autocompletion=completing.deployments),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only this key's, as `stoker keys` lists it.", autocompletion=completing.keys),
    ] = None,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Show what was used: requests, tokens, times. A user's key sees its own."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.usage import usage_table

    now = datetime.now(UTC)
    asked = {"by": by, "model": model, "key": key}
    asked |= {"since": moment_of("--since", since, now), "until": moment_of("--until", until, now)}
    query = {name: value for name, value in asked.items() if value is not None}
    names = {"since": "--since", "until": "--until", "model": "--model", "key": "--key"}
    async with connect(server) as client:
        answer = await client.call("GET", path("usage"), query=query, field_names=names)
    if output == "table":
        show(usage_table(answer))
    else:
        print_data(answer, output)


def moment_of(flag: str, text: str | None, now: datetime) -> str | None:
    """`24h` (so long before `now`), a day or a moment, as RFC 3339. Without a time zone it is meant where the command
    runs. Raises CliError naming the flag and what would be right."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            moment = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo is not None else moment.astimezone()
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        message = (
            f"{flag} {text!r}: write how long ago, like 24h or 7d, or when, like 2026-03-01 or 2026-03-01T12:00:00Z"
        )
        raise CliError(message, code=ExitCode.USAGE) from None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(usage)
