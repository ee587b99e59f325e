"""API keys, for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from api.schemas.keys import KeyRead, LimitsRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, duration, table
from stoker.domain.units import format_count


def keys_table(items: Sequence[Any]) -> Table:
    """`stoker keys`."""
    made = table("ID", "NAME", "ROLE", "AGE", "STATE", "MODELS", "LIMITS")
    now = datetime.now(UTC)
    for item in items:
        read = read_as(KeyRead, item)
        state, living = _state(read, now)
        made.add_row(
            cell(read.id),
            cell(read.name),
            cell(read.role.value),
            cell(age(read.created_at)),
            cell(state, "" if living else "dim"),
            cell(", ".join(read.models) or "all"),
            cell(limits_text(read.limits)),
        )
    return made


def limits_text(limits: LimitsRead) -> str:
    """`60 requests/min, 100k tokens/min, 10M tokens/month, 4 at once`."""
    named = (
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.tokens_per_month, "tokens/month"),
        (limits.concurrency, "at once"),
    )
    return ", ".join(f"{format_count(limit)} {what}" for limit, what in named if limit is not None) or "none"


def _state(read: KeyRead, now: datetime) -> tuple[str, bool]:
    """The state, and whether the key still opens anything."""
    if read.revoked_at is not None:
        return f"revoked {age(read.revoked_at, now)} ago", False
    if read.expires_at is None:
        return "valid", True
    if read.expires_at <= now:
        return f"expired {age(read.expires_at, now)} ago", False
    return f"valid for {duration((read.expires_at - now).total_seconds())}", True
