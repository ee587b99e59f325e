"""The flags that say what a key may do: of `keys create`, and of `keys set`."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from entrypoints.cli.errors import CliError, ExitCode
from stoker.domain.units import parse_count, parse_duration

T = TypeVar("T")

ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="30d|DATE|never", help="After how long, or when, it ends.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="It may ask this one and no other. Repeatable; `all`: any."),
]
RpmOption = Annotated[str | None, typer.Option("--rpm", metavar="N|none", help="Requests in any 60 seconds.")]
TpmOption = Annotated[
    str | None, typer.Option("--tpm", metavar="100k|none", help="Tokens in any 60 seconds, read and written.")
]
MonthOption = Annotated[
    str | None, typer.Option("--tokens-per-month", metavar="10M|none", help="Tokens of a calendar month (UTC).")
]
ConcurrencyOption = Annotated[
    str | None, typer.Option("--concurrency", metavar="N|none", help="Requests worked on at once.")
]

FIELD_NAMES = {
    "name": "NAME",
    "role": "--role",
    "expires_at": "--expires",
    "expires_in_seconds": "--expires",
    "models": "--model",
    "limits.requests_per_minute": "--rpm",
    "limits.tokens_per_minute": "--tpm",
    "limits.tokens_per_month": "--tokens-per-month",
    "limits.concurrency": "--concurrency",
}
"""What a key's fields are called here."""


def key_body(
    *,
    expires: str | None,
    models: list[str] | None,
    rpm: str | None,
    tpm: str | None,
    tokens_per_month: str | None,
    concurrency: str | None,
) -> dict[str, Any]:
    """What was given, as REST says it. Raises CliError naming the flag and what would be right."""
    body: dict[str, Any] = {}
    if expires is not None:
        body |= _expiry(expires)
    if models:
        body["models"] = [] if models == ["all"] else models
    limits = {
        "requests_per_minute": ("--rpm", rpm),
        "tokens_per_minute": ("--tpm", tpm),
        "tokens_per_month": ("--tokens-per-month", tokens_per_month),
        "concurrency": ("--concurrency", concurrency),
    }
    given = {field: _limit(flag, text) for field, (flag, text) in limits.items() if text is not None}
    return body | {"limits": given} if given else body


def _expiry(text: str) -> dict[str, Any]:
    if text == "never":
        return {"expires_at": None}
    if text[:4].isdecimal() and text[4:5] == "-":
        return {"expires_at": _read("--expires", _moment, text).isoformat()}
    return {"expires_in_seconds": int(_read("--expires", parse_duration, text))}


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no date: write it like 2027-01-31 or 2027-01-31T12:00:00Z") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _limit(flag: str, text: str) -> int | None:
    return None if text == "none" else _read(flag, parse_count, text)


def _read(flag: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise CliError(f"{flag}: {error}", code=ExitCode.USAGE) from error
