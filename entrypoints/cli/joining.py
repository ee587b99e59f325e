"""`stoker workers token`: a token for one machine, and the command to run there."""

import platform
from urllib.parse import urlsplit

import typer

from api.schemas.join_tokens import JoinTokenCreated
from entrypoints.cli.client import StokerClient, path, read_as
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import OutputFormat
from entrypoints.cli.output import print_data
from entrypoints.cli.printable import tell
from stoker.domain.units import parse_duration


def seconds_of(flag: str, text: str) -> int:
    """`90s`, `30m`, `1h`, `7d` in whole seconds. Raises CliError naming the flag."""
    try:
        return int(parse_duration(text))
    except ValueError as error:
        raise CliError(f"{flag}: {error}", code=ExitCode.USAGE) from error


async def make_token(client: StokerClient, *, ttl: str, labels: dict[str, str], output: OutputFormat) -> None:
    """Makes a token and prints it: alone on stdout, with all that is to be known of it on stderr. Raises CliError."""
    body = {"ttl_seconds": seconds_of("--ttl", ttl), "labels": labels}
    answer = await client.call(
        "POST", path("join-tokens"), body, field_names={"ttl_seconds": "--ttl", "labels": "--label"}
    )
    if output != "table":
        print_data(answer, output)
        return
    made = read_as(JoinTokenCreated, answer)
    until = f"{made.expires_at:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"join token {made.id}, for one worker, until {until}, shown this once:", err=True)
    typer.echo(made.token)
    for line in _what_to_do(client.url, is_local=client.is_local):
        tell(line)


def _what_to_do(url: str, *, is_local: bool) -> list[str]:
    address = url
    if is_local:  # as others may know this machine
        parts = urlsplit(url)
        address = f"{parts.scheme}://{platform.node() or 'THIS-MACHINE'}:{parts.port or 8410}"
    lines = [
        "on the other machine, with its own address; it asks for the token:",
        f"    stoker worker --server {address} --address ADDRESS --join-token-file -",
    ]
    if is_local:
        lines.append(
            "it must reach the API (`stoker up --host 0.0.0.0`) and Temporal: see the README, A second machine"
        )
    return lines
