"""`stoker audit`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous
from entrypoints.cli.usage import moment_of

_FLAGS = {"by": "--by", "object": "--object", "since": "--since", "until": "--until", "limit": "--limit"}


@asynchronous
async def audit(
    by: Annotated[str | None, typer.Option(metavar="KEY", help="Only what this key asked, by its id or name.")] = None,
    about: Annotated[
        str | None,
        typer.Option(
            "--object", metavar="KIND/NAME", help="Only about this: deployment/smol, or all of a kind: worker."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From then on: 24h, 7d, 2026-03-01, 2026-03-01T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")] = None,
    refused: Annotated[
        bool | None, typer.Option("--refused/--made", help="Only what was refused or failed, or only the rest.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="The last N of them.")] = 50,
    output: OutputOption = "table",
    server: ServerOption = None,
) -> None:
    """Show who changed what, or was refused it, latest first."""
    from entrypoints.cli.client import connect, path
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.views.audit import audit_table

    now = datetime.now(UTC)
    asked = {"by": by, "object": about, "refused": refused, "limit": limit}
    asked |= {"since": moment_of("--since", since, now), "until": moment_of("--until", until, now)}
    query = {name: value for name, value in asked.items() if value is not None}
    async with connect(server) as client:
        answer = await client.call("GET", path("audit"), query=query, field_names=_FLAGS)
    if output == "table":
        show(audit_table(answer["data"]))
    else:
        print_data(answer["data"], output)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(audit)
