"""API keys, for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from api.schemas.keys import KeyRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, table


def keys_table(items: Sequence[Any]) -> Table:
    """`stoker keys`."""
    made = table("ID", "NAME", "ROLE", "AGE", "STATE")
    for item in items:
        read = read_as(KeyRead, item)
        state = f"revoked {age(read.revoked_at)} ago" if read.revoked_at is not None else "valid"
        made.add_row(
            cell(read.id),
            cell(read.name),
            cell(read.role.value),
            cell(age(read.created_at)),
            cell(state, "dim" if read.revoked_at is not None else ""),
        )
    return made
