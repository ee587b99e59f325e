"""What a server's refusal, or its silence, means for whoever typed the command."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from entrypoints.cli.access import Access
from entrypoints.cli.errors import CliError, ExitCode

EXIT_CODES = {
    "invalid_request": ExitCode.USAGE,
    "invalid_request_error": ExitCode.USAGE,
    "model_not_found": ExitCode.NOT_FOUND,
    "file_not_found": ExitCode.NOT_FOUND,
    "access_denied": ExitCode.NOT_ALLOWED,
    "path_not_allowed": ExitCode.NOT_ALLOWED,
    "url_not_allowed": ExitCode.NOT_ALLOWED,
}
"""The exit code that a refusal's code means; FAILED for all others."""

_STATUSES = {401: ExitCode.NOT_ALLOWED, 403: ExitCode.NOT_ALLOWED, 404: ExitCode.NOT_FOUND}
_LISTED_BY = {
    "/v1/chat": "ps",
    "/deployments": "ps",
    "/instances": "ps",
    "/workers": "workers",
    "/files": "files",
    "/join-tokens": "workers tokens",
    "/keys": "keys",
    "/routes": "routes",
}
_SERVER_FAULTS = ("temporal_unavailable", "control_plane_unavailable", "database_unavailable")
_MESSAGE_CHARACTERS = 2000


class RefusedError(CliError):
    """The server answered, with a status that is an error."""

    def __init__(
        self, *messages: str, status: int, code: ExitCode, hint: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(*messages, code=code, hint=hint)
        self.status, self.retry_after = status, retry_after  # retry_after: seconds, where trying again can help


class NoAnswerError(CliError):
    """Nobody answered, or what answered is no Stoker."""


def refusal(access: Access, response: httpx.Response, field_names: Mapping[str, str] | None = None) -> RefusedError:
    """The error that `response` says, in problem+json or in OpenAI's shape. Its body must have been read."""
    body = _body(response)
    status = response.status_code
    if "error" in body and isinstance(body["error"], dict):
        openai = body["error"]
        messages = [str(openai.get("message"))]
        kind = str(openai.get("code") or openai.get("type"))
        retryable = response.headers.get("x-should-retry") == "true"
    elif "detail" in body:
        messages = field_messages(body.get("errors") or [], field_names or {}) or [str(body["detail"])]
        kind = str(body.get("code"))
        retryable = False
    else:
        text = response.text.strip().splitlines()
        messages = [f"{access.url} answered {status}: {text[0] if text else response.reason_phrase}"]
        kind, retryable = "", False
    return RefusedError(
        *(message[:_MESSAGE_CHARACTERS] for message in messages),
        status=status,
        code=EXIT_CODES.get(kind) or _STATUSES.get(status, ExitCode.FAILED),
        hint=_hint(access, status, kind, response.request.url.path),
        retry_after=_seconds(response.headers.get("retry-after")) if retryable else None,
    )


def no_answer(access: Access, error: httpx.HTTPError) -> NoAnswerError:
    """The error for a server that cannot be reached or stopped in the middle."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        reason = str(error).rstrip(".") or "no connection in time"
        if access.url.startswith("https:") and "ssl" in reason.lower():
            return NoAnswerError(f"no safe connection to {access.url}: {reason}")
        return NoAnswerError(
            f"no Stoker answers at {access.url}", hint="start it with `stoker up`, or set --server or STOKER_SERVER"
        )
    if isinstance(error, httpx.TimeoutException):
        return NoAnswerError(f"{access.url} did not answer in time", code=ExitCode.TIMED_OUT)
    return NoAnswerError(f"the connection to {access.url} broke: {str(error) or type(error).__name__}")


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def field_messages(errors: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    """A line a field (`field`, `message`, `value`): what it is called here, what was given, what would be right."""
    messages = []
    for field in errors:
        name = _name(field["field"], names)
        given = "" if field.get("value") is None else f" {field['value']!r}"
        messages.append(f"{name}{given}: {field['message']}")
    return messages


def _name(field: str, names: Mapping[str, str]) -> str:
    """Of an item of a list or a table: the whole's, if it has none itself."""
    parts = field.split(".")
    known = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((names[name] for name in known if name in names), field)


def _hint(access: Access, status: int, kind: str, route: str) -> str:
    if status == 401 and not access.key:
        return f"no key was found in {access.key_from}: set STOKER_API_KEY"
    if status == 401:
        return f"the key from {access.key_from} is not one of this server's: set STOKER_API_KEY"
    if kind == "model_not_allowed":
        return "ask an administrator: `stoker keys set` changes which models a key may use"
    if kind == "forbidden":  # whoever has no admin key cannot make one either
        return (
            f"the key from {access.key_from} may not: set STOKER_API_KEY to an admin's key, or ask an administrator. "
            "The first one is in the file admin-key of the server's data folder"
        )
    if kind == "generation_conflict":
        return "somebody else changed it meanwhile: look at it with `stoker describe`, then try again"
    if kind == "worker_in_use":
        return "`stoker workers drain NAME` moves them first; with --force they are started anew elsewhere"
    if kind == "file_not_own":
        return "with --force it goes all the same"
    if kind in _SERVER_FAULTS:
        return "`stoker doctor` tells what is wrong"
    if kind == "no_worker":
        return "see `stoker workers`"
    if status == 404:
        return next((f"see `stoker {command}`" for part, command in _LISTED_BY.items() if part in route), "")
    return ""


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
