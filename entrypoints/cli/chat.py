"""`stoker chat`."""

import sys
from typing import Annotated

import typer

from entrypoints.cli import completing
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.flags import ServerOption


def chat(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The deployment to talk to.", autocompletion=completing.deployments)
    ],
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="What to ask; else stdin, or a conversation on a terminal.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0: always the likeliest word.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The answer ends after so many tokens.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long a model that loads may take; then exit code 124.")
    ] = 600,
    server: ServerOption = None,
) -> None:
    """Ask a model; the answer is printed as it comes. Waits for a model that is still loading."""
    import asyncio

    from entrypoints.cli.access import find_access
    from entrypoints.cli.conversation import Conversation, Question

    question = Question(name, temperature=temperature, max_tokens=max_tokens, load_timeout=timeout)
    conversation = Conversation(find_access(server), question, system=system)
    if prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
        conversation.hold()
        return
    text = sys.stdin.read() if prompt is None else prompt
    if not text.strip():
        raise CliError("there is nothing to ask", code=ExitCode.USAGE, hint=f'stoker chat {name} "Name three fruits."')
    asyncio.run(conversation.ask(text))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(chat)
