"""A conversation with a model, through the OpenAI door."""

import asyncio
import json
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import typer

from entrypoints.cli.access import Access
from entrypoints.cli.client import StokerClient
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.output import write
from entrypoints.cli.printable import tell
from entrypoints.cli.refusals import RefusedError

_ASK_AGAIN_WITHIN_SECONDS = 2.0
"""A model that loads may be there sooner than the server thinks."""


@dataclass(frozen=True)
class Question:
    """How to ask. `load_timeout`: seconds that a model which is still loading may take."""

    model: str
    temperature: float | None
    max_tokens: int | None
    load_timeout: float


class Speed:
    """Tokens a second, by the engine's own measure where it tells it, else from the first token to the last."""

    def __init__(self) -> None:
        self._asked_at = time.monotonic()
        self._first_at: float | None = None
        self._last_at = self._asked_at
        self._tokens = 0
        self._rate: float | None = None

    def saw(self, chunk: Any, *, text: bool) -> None:
        """Notes a chunk of the stream; `text`: whether it held some."""
        self._last_at = time.monotonic()
        if text and self._first_at is None:
            self._first_at = self._last_at
        if usage := chunk.get("usage"):
            self._tokens = usage.get("completion_tokens") or self._tokens
        if timings := chunk.get("timings"):
            self._rate = timings.get("predicted_per_second")

    def __str__(self) -> str:
        first = self._first_at if self._first_at is not None else self._last_at
        rate = self._rate
        if rate is None and self._tokens > 1 and self._last_at > first:
            rate = (self._tokens - 1) / (self._last_at - first)
        parts = [f"{self._tokens} token{'' if self._tokens == 1 else 's'}"] if self._tokens else []
        parts += [f"{rate:.1f} tokens/s"] if rate else []
        return ", ".join([*parts, f"first token after {first - self._asked_at:.2f} s"])


class Conversation:
    """Messages so far; each answer is printed to stdout as it comes, its speed to stderr."""

    def __init__(self, access: Access, question: Question, *, system: str | None) -> None:
        self._access, self._question = access, question
        self._messages: list[dict[str, str]] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})

    def hold(self) -> None:
        """Asks for a line and answers it, until the end of the input (Ctrl-D) or Ctrl-C at the prompt."""
        with suppress(ImportError):
            import readline  # noqa: F401  (gives `input` editing and a history)

        typer.echo(f"Talking to {self._question.model}. Ctrl-C stops an answer, Ctrl-D ends.", err=True)
        while True:
            try:
                text = input("> ")
            except EOFError:
                typer.echo(err=True)
                return
            if not text.strip():
                continue
            try:
                asyncio.run(self.ask(text))
            except KeyboardInterrupt:
                typer.echo(err=True)
            except CliError as error:
                if error.code in (ExitCode.NOT_FOUND, ExitCode.NOT_ALLOWED):
                    raise
                tell(f"error: {error}")

    async def ask(self, text: str) -> None:
        """Prints the answer. Raises CliError; then the question is forgotten."""
        self._messages.append({"role": "user", "content": text})
        try:
            answer = await self._answered()
        except BaseException:
            self._messages.pop()
            raise
        self._messages.append({"role": "assistant", "content": answer})

    async def _answered(self) -> str:
        """The answer, once the model is there."""
        told = ""
        try:
            async with StokerClient(self._access) as client, asyncio.timeout(self._question.load_timeout) as limit:
                while True:
                    try:
                        return await self._stream(client, limit)
                    except RefusedError as error:
                        if error.retry_after is None:
                            raise
                        if str(error) != told:
                            tell(f"{error}")
                        told = str(error)
                        await asyncio.sleep(min(error.retry_after, _ASK_AGAIN_WITHIN_SECONDS))
        except TimeoutError:
            raise CliError(
                f"{self._question.model} does not answer after {self._question.load_timeout:g} s"
                + (f": {told}" if told else ""),
                code=ExitCode.TIMED_OUT,
                hint=f"see `stoker why {self._question.model}`",
            ) from None

    async def _stream(self, client: StokerClient, limit: asyncio.Timeout) -> str:
        """Prints one answer as it comes. The limit is for the wait before it, and not for the answer."""
        ask = self._question
        body: dict[str, Any] = {
            "model": ask.model,
            "messages": self._messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
        }
        speed, answer, complete = Speed(), "", False
        async with aclosing(client.chat({key: value for key, value in body.items() if value is not None})) as events:
            try:
                async for event in events:
                    limit.reschedule(None)
                    if event.data == "[DONE]":
                        complete = True
                        break
                    delta = _delta(json.loads(event.data), speed)
                    answer += delta
                    write(delta)
            finally:
                if answer or complete:
                    write("\n")
        if not complete:
            raise CliError(f"the answer of {ask.model} was cut off", hint=f"see `stoker describe {ask.model}`")
        typer.echo(str(speed), err=True)
        return answer


def _delta(chunk: Any, speed: Speed) -> str:
    """The text that a chunk of the stream adds. Raises CliError for one that says that the answer failed."""
    if "error" in chunk:
        raise CliError(str(chunk["error"].get("message", chunk["error"])))
    text = "".join(choice.get("delta", {}).get("content") or "" for choice in chunk.get("choices", ()))
    speed.saw(chunk, text=bool(text))
    return text
