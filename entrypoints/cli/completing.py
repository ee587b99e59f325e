"""`stoker completion`, and what Tab offers where a name is asked for: those that the server knows, or nothing."""

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

ANSWER_WITHIN_SECONDS = 1.0
"""Whoever pressed Tab waits so long at most."""

VARIABLE = "_STOKER_COMPLETE"
"""Set by the shell's script when it asks."""

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the script that lets Tab complete commands and names.

    bash: `source <(stoker completion bash)` in ~/.bashrc. zsh: `source <(stoker completion zsh)` in ~/.zshrc, behind
    `compinit`. fish: `stoker completion fish | source` in ~/.config/fish/config.fish.
    """
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="stoker", complete_var=VARIABLE, shell=shell))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(completion)


def deployments(incomplete: str) -> list[str]:
    """Names of deployments."""
    return _known("deployments", "name", incomplete)


def workers(incomplete: str) -> list[str]:
    """Names of workers."""
    return _known("workers", "name", incomplete)


def routes(incomplete: str) -> list[str]:
    """Names of routes."""
    return _known("routes", "name", incomplete)


def keys(incomplete: str) -> list[str]:
    """Ids of keys that were not revoked."""
    return _known("keys", "id", incomplete, lambda key: key["revoked_at"] is None)


def _known(kind: str, field: str, incomplete: str, chosen: Callable[[Any], bool] = lambda _: True) -> list[str]:
    """The first page is enough to choose from. Whatever goes wrong, nothing is offered and nothing is said."""
    import httpx

    from entrypoints.cli.access import find_access
    from entrypoints.cli.errors import CliError

    try:
        access = find_access(os.environ.get("STOKER_SERVER"))
        answer = httpx.get(
            f"{access.url}/api/v1/{kind}",
            params={"limit": 1000},
            headers={"authorization": f"Bearer {access.key}"} if access.key else {},
            timeout=ANSWER_WITHIN_SECONDS,
            trust_env=not access.is_local,
        )
        found = [item[field] for item in answer.raise_for_status().json()["data"] if chosen(item)]
    except (CliError, httpx.HTTPError, ValueError, KeyError, TypeError):
        return []
    return [name for name in found if name.startswith(incomplete)]
