"""Who changed what: written in batches, read newest first, forgotten when its time is over."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, insert, or_, select
from sqlmodel import Session

from stoker.domain.audit import AuditEntry
from stoker.storage.by_time import Stretch, cursor_of, within
from stoker.storage.tables import AuditRow, table_of

_AUDIT = table_of(AuditRow)
_DELETED_AT_ONCE = 5000


class KeptEntry(NamedTuple):
    """An entry, and its place in the listing: `cursor` is where the next page begins."""

    cursor: str
    entry: AuditEntry


class AuditFilter(NamedTuple):
    """Which entries are asked for; what is None does not matter."""

    time: Stretch = Stretch(None, None)
    by: str | None = None  # a key's id, or its name at that time
    object: str | None = None  # "deployment/smol"; of a whole kind: "deployment"
    refused: bool | None = None


def write_entries(session: Session, entries: Sequence[AuditEntry]) -> None:
    """Keeps them. In a write transaction."""
    # `changes` as JSON says them: the column takes nothing else.
    rows = [entry.model_dump() | entry.model_dump(mode="json", include={"changes"}) for entry in entries]
    session.execute(insert(_AUDIT), rows)


def audit_entries(
    session: Session, asked: AuditFilter, *, limit: int, after: tuple[datetime, int] | None = None
) -> list[KeptEntry]:
    """Entries, the newest first. `after`: see `by_time.place_of`."""
    t = _AUDIT.c
    query = select(_AUDIT).where(*within(t.at, asked.time))
    if asked.by is not None:
        query = query.where(or_(t.key_id == asked.by, t.key_name == asked.by))
    if asked.object is not None:
        query = query.where(or_(t.object == asked.object, t.object.startswith(f"{asked.object}/", autoescape=True)))
    if asked.refused is not None:
        query = query.where(t.status >= 400 if asked.refused else t.status < 400)
    if after is not None:
        at, number = after
        query = query.where(t.at <= at, or_(t.at < at, t.id < number))
    found = session.execute(query.order_by(t.at.desc(), t.id.desc()).limit(limit))
    return [KeptEntry(cursor_of(row.at, row.id), AuditEntry.model_validate(row, from_attributes=True)) for row in found]


def forget_entries(session: Session, before: datetime) -> int:
    """Deletes some of the entries from before that moment; returns how many. Call it again while that is not 0."""
    t = _AUDIT.c
    some = select(t.id).where(t.at < before).order_by(t.at).limit(_DELETED_AT_ONCE)
    gone = session.execute(delete(_AUDIT).where(t.id.in_(some)))
    return int(gone.rowcount)  # type: ignore[attr-defined]  # of a DELETE it is there
