"""`stoker doctor`."""

import typer

from entrypoints.cli.errors import ExitCode
from entrypoints.cli.flags import OutputOption, ServerOption, asynchronous


@asynchronous
async def doctor(output: OutputOption = "table", server: ServerOption = None) -> None:
    """Check this machine and the cluster, and say what to do.

    Looks at Python, disks, ports, the engine and GPUs here; at Temporal and the database where the server is on this
    machine; at the API, the clock, the workers and the links between them. Exit code 1 when something is wrong.
    """
    from dataclasses import asdict

    from entrypoints.checks.examination import examine, is_wrong
    from entrypoints.cli.access import find_access
    from entrypoints.cli.output import print_data, show
    from entrypoints.cli.settings_flags import settings_from
    from entrypoints.cli.views.findings import findings_summary, findings_view
    from stoker.logging import configure_logging

    configure_logging("doctor", "error")
    findings = await examine(settings_from({}), find_access(server), named=server is not None)
    if output == "table":
        show(findings_view(findings))
        typer.echo(findings_summary(findings))
    else:
        print_data([asdict(finding) for finding in findings], output)
    raise typer.Exit(ExitCode.FAILED if any(map(is_wrong, findings)) else ExitCode.OK)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)
