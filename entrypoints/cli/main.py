"""The program `stoker`. Commands import what they run when they run: `stoker --help` must stay quick."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from entrypoints.cli import (
    audit,
    backing_up,
    chat,
    completing,
    declaring,
    deployments,
    doctor,
    engine,
    estimating,
    explaining,
    files,
    instance_logs,
    keys,
    processes,
    rollouts,
    routes,
    simulating,
    top,
    usage,
    workers,
)
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.printable import tell

_SECTIONS = {
    "Models": ("estimate", "simulate", "deploy", "ps", "describe", "why", "scale", "rollout", "rm", "logs", "chat"),
    "The cluster": ("top", "apply", "diff", "export", "workers", "files", "routes", "keys", "usage", "audit"),
    "Processes": ("up", "server", "control-plane", "worker", "engine", "migrate", "backup", "restore"),
    "Help": ("doctor", "completion"),
}


class _Program(TyperGroup):
    """Turns whatever a command raises into lines on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Runs the program and exits."""
        given = list(sys.argv[1:] if args is None else args)
        extra |= {"prog_name": "stoker", "standalone_mode": False}
        if completing.VARIABLE in os.environ:
            from typer._completion_classes import completion_init

            completion_init()
        try:
            code = super().main(given, **extra)
        except CliError as error:
            sys.exit(_tell(error))
        except typer.TyperException as error:  # wrong flags and arguments
            sys.exit(_tell(_usage_error(error)))
        except typer.Abort:
            sys.exit(ExitCode.FAILED)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands in sections: models first, since they are what most people come for."""
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(60)) for name in names])


def _tell(error: CliError) -> int:
    for message in error.messages:
        tell(f"error: {message}")
    if error.hint:
        tell(f"hint: {error.hint}")
    return error.code


def _usage_error(error: typer.TyperException) -> CliError:
    context: typer.Context | None = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "")
    hint = f"see `{context.command_path} --help`" if context is not None else ""
    return CliError(message, code=ExitCode.USAGE, hint=hint)


app = typer.Typer(
    name="stoker",
    cls=_Program,
    add_completion=False,  # see `stoker completion`
    rich_markup_mode=None,  # plain help: rich takes as long to load as all the rest together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    estimating,
    simulating,
    deployments,
    rollouts,
    explaining,
    instance_logs,
    chat,
    declaring,
    top,
    workers,
    files,
    routes,
    keys,
    usage,
    audit,
    processes,
    engine,
    backing_up,
    doctor,
    completing,
):
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from stoker.version import VERSION

        typer.echo(f"stoker {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Runs large language models on the GPUs you already own.

    Start with `stoker up`, then `stoker deploy NAME --model hf:ORG/REPO:QUANT`, then `stoker chat NAME`.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
