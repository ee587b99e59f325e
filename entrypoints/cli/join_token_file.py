"""Where `stoker worker` reads its join token: never from the command line, where all users of the machine see it."""

import sys
from pathlib import Path

import typer

from entrypoints.cli.errors import CliError, ExitCode


def token_from(source: str | None) -> str | None:
    """The join token in the file `source`, or for "-" the first line of standard input. Raises CliError (USAGE)."""
    if source is None:
        return None
    if source == "-" and sys.stdin.isatty():
        typer.echo("join token, then Enter: ", err=True, nl=False)
    try:
        text = sys.stdin.readline() if source == "-" else Path(source).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CliError(f"--join-token-file {source}: it cannot be read: {reason}", code=ExitCode.USAGE) from error
    if not text.strip():
        raise CliError(f"--join-token-file {source}: no token is there", code=ExitCode.USAGE)
    return text.strip()
