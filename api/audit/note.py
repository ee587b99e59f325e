"""What the code that makes a change tells the audit log about it, wherever that code is.

Each does nothing where no request is noted: `recording` begins a note with each request that may change something.
"""

from contextvars import ContextVar
from dataclasses import dataclass

from pydantic import BaseModel

from stoker.domain.audit import bounded_changes
from stoker.domain.field_changes import FieldChange


@dataclass(slots=True)
class Note:
    """What is known of a request so far."""

    key_id: str = ""
    key_name: str = ""
    object: str = ""
    changes: tuple[FieldChange, ...] = ()
    is_question: bool = False


current_note: ContextVar[Note | None] = ContextVar("stoker_audit_note", default=None)


def asked_by(key_id: str, name: str) -> None:
    """Who asks: a key, by its id and name, or (with no id) another credential, in words."""
    note = current_note.get()
    if note is not None:
        note.key_id, note.key_name = key_id, name


def concerns(kind: str, name: str) -> None:
    """What is changed: `concerns("key", key_id)`. Under `/api/v1` the path says it as well, where it names it.

    A request elsewhere becomes an entry by this alone: the web page calls the same functions as the API.
    """
    note = current_note.get()
    if note is not None:
        note.object = f"{kind}/{name}"


def changed(before: BaseModel | None, after: BaseModel) -> None:
    """What is asked for, as the API says it; `before`: what there is. None: nothing, and defaults are not told."""
    note = current_note.get()
    if note is not None:
        old = before.model_dump(mode="json") if before is not None else {}
        note.changes = bounded_changes(old, after.model_dump(mode="json", exclude_defaults=before is None))


def changes_nothing() -> None:
    """It is only asked what would be: no entry."""
    note = current_note.get()
    if note is not None:
        note.is_question = True
