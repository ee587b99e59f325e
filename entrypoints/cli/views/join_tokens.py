"""Join tokens, for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from api.schemas.join_tokens import JoinTokenRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, duration, table


def join_tokens_table(items: Sequence[Any]) -> Table:
    """`stoker workers tokens`."""
    made = table("ID", "AGE", "STATE", "LABELS")
    now = datetime.now(UTC)
    for item in items:
        read = read_as(JoinTokenRead, item)
        state = _state(read, now)
        made.add_row(
            cell(read.id),
            cell(age(read.created_at)),
            cell(state, "" if state.startswith("valid") else "dim"),
            cell(", ".join(f"{key}={value}" for key, value in sorted(read.labels.items())) or "none"),
        )
    return made


def _state(read: JoinTokenRead, now: datetime) -> str:
    if read.used_at is not None:
        return f"used by {read.used_by} {age(read.used_at, now)} ago"
    if read.expires_at <= now:
        return f"expired {age(read.expires_at, now)} ago"
    return f"valid for {duration((read.expires_at - now).total_seconds())}"
