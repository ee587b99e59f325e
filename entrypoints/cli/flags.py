"""Options that several commands take, and how commands are run."""

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Annotated, Any, Literal, ParamSpec

import typer

from entrypoints.cli.errors import CliError, ExitCode

P = ParamSpec("P")

OutputFormat = Literal["table", "json", "yaml"]

ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", envvar="STOKER_SERVER", help="The API; else the one on this machine."),
]
OutputOption = Annotated[OutputFormat, typer.Option("--output", "-o", help="For people, or for scripts.")]
WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Go on showing every change, until Ctrl-C.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait; then exit code 124.")
]


def asynchronous(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The command as typer wants it: a plain function that returns when the coroutine is done."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import asyncio

        asyncio.run(command(*args, **kwargs))

    return run


def pairs(flag: str, texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as a dictionary. Raises CliError naming the flag and what would be right."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or not value:
            raise CliError(f"{flag} {text!r}: write KEY=VALUE, like zone=lab", code=ExitCode.USAGE)
        if found.get(key, value) != value:
            raise CliError(f"{flag} {text!r}: {key} was given as {found[key]!r} before", code=ExitCode.USAGE)
        found[key] = value
    return found
