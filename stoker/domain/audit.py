"""Who changed what: one entry a change that somebody asked for, whether it was made or refused."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from stoker.domain.base import Value
from stoker.domain.field_changes import FieldChange

UNANSWERED = 0
"""The status of a change whose answer was never begun: nobody knows whether it was made."""

MOST_CHANGES = 100
LONGEST_VALUE = 1000  # characters, as JSON

_MISSING = object()


class AuditEntry(Value):
    """One change that was asked for. Never holds a body, a key or a token."""

    at: datetime  # when it came in
    key_id: str = ""  # of the API key that asked; empty: another credential, or none that is known
    key_name: str = ""  # the key's name then; for a worker that joins, what it showed
    action: str  # the operation, as the OpenAPI document names it: "update_deployment"
    method: str
    path: str
    object: str = ""  # kind and name: "deployment/smol"; empty: it got none
    changes: tuple[FieldChange, ...] = ()  # what was asked for, also where it was refused
    status: int  # HTTP's; UNANSWERED
    request_id: str = ""

    @property
    def refused(self) -> bool:
        """Whether it was answered with an error."""
        return self.status >= 400


def bounded_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """The fields that differ, in `after`'s order, then those that are gone; at most MOST_CHANGES.

    Both hold JSON. Fields of objects within are told one by one, lists whole. A value that is longer than LONGEST_VALUE
    as JSON becomes the beginning of that text.
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    names = dict.fromkeys((*new, *old))
    changed = [name for name in names if old.get(name, _MISSING) != new.get(name, _MISSING)]
    return tuple(
        FieldChange(field=name, before=_shortened(old.get(name)), after=_shortened(new.get(name)))
        for name in changed[:MOST_CHANGES]
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shortened(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
