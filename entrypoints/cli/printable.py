"""Text that cannot steer a terminal. Light: errors are told with it, and must not wait for tables to load."""

import re

import typer

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but line feed and tab


def printable(text: str) -> str:
    """`text` without what would steer a terminal: what models, servers and others write is not trusted with it."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def tell(text: str) -> None:
    """A line on stderr, beside the results: what scripts read stays what it was."""
    typer.echo(printable(text), err=True)
