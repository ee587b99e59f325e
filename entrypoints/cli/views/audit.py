"""Who changed what, for people."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from rich.table import Table

from api.schemas.audit import AuditEntryRead, FieldChangeRead
from entrypoints.cli.client import read_as
from entrypoints.cli.output import cell, table

_LONGEST_VALUE = 60  # characters; `-o json` has all


def audit_table(items: Sequence[Any]) -> Table:
    """`stoker audit`."""
    made = table("WHEN (UTC)", "BY", "ACTION", "OBJECT", "RESULT", "CHANGES")
    for item in items:
        read = read_as(AuditEntryRead, item)
        result, style = _result(read.status)
        made.add_row(
            cell(f"{read.at:%Y-%m-%d %H:%M:%S}"),
            cell(read.key_name or "-"),
            cell(read.action.replace("_", " ")),
            cell(read.object or "-"),
            cell(result, style),
            cell(", ".join(map(_change, read.changes))),
        )
    return made


def _result(status: int) -> tuple[str, str]:
    """`done`, or why not, and how that looks."""
    if not status:
        return "not answered", "yellow"
    if status < 400:
        return "done", ""
    known = status in HTTPStatus._value2member_map_
    return f"{status} {HTTPStatus(status).phrase}" if known else str(status), "red"


def _change(change: FieldChangeRead) -> str:
    """`replicas 1 -> 3`; what was not there before is `model=hf:org/repo`."""
    after = _value(change.after)
    return f"{change.field}={after}" if change.before is None else f"{change.field} {_value(change.before)} -> {after}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
