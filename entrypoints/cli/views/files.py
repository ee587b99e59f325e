"""Models on workers' disks, for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from api.schemas.files import StoredModelRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, table
from stoker.domain.units import format_bytes


def files_table(items: Sequence[Any]) -> Table:
    """`stoker files`: a line a model and worker."""
    made = table("WORKER", "MODEL", "FILES", "SIZE", "LAST USE", "USED BY")
    for column in (made.columns[0], *made.columns[2:5]):
        column.no_wrap = True
    for item in items:
        read = read_as(StoredModelRead, item)
        made.add_row(
            cell(read.worker),
            cell(read.model.removeprefix("hf:")),
            cell(len(read.files)),
            cell(_size(read), "" if read.stored_bytes >= read.size_bytes else "yellow"),
            cell(f"{age(read.used_at)} ago" if read.used_at is not None else "not known"),
            cell(_users(read)),
        )
    return made


def _size(read: StoredModelRead) -> str:
    if read.stored_bytes >= read.size_bytes:
        return format_bytes(read.size_bytes)
    return f"{format_bytes(read.stored_bytes)} of {format_bytes(read.size_bytes)}"


def _users(read: StoredModelRead) -> str:
    if read.instances:
        return ", ".join(read.instances)
    if read.in_use:
        return "in use"
    return "nobody" if read.own else "nobody; not fetched by Stoker"
