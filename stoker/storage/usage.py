"""What was used, as it is asked for: sums, single requests, and what a month's quota is held against.

Whole hours are read from their sums. What is asked for before the first whole hour and behind the last one is summed
from single requests; of a time whose single requests are gone, an hour counts whole when any of it was asked for.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Null, Select, case, delete, func, null, or_, select
from sqlmodel import Session, col

from stoker.domain.usage import GONE, UsageBy, UsageRecord, UsageSums, status_class
from stoker.storage.by_time import Stretch, cursor_of, within
from stoker.storage.tables import UsageBatchRow, UsageHourRow, UsageRow, table_of

_HOUR = timedelta(hours=1)
_RECORDERS_DAYS = 400
_DELETED_AT_ONCE = 5000

_SINGLE, _HOURLY = table_of(UsageRow), table_of(UsageHourRow)


class KeptRecord(NamedTuple):
    """A single request, and its place in the listing: `cursor` is where the next page begins."""

    cursor: str
    record: UsageRecord


def split(asked: Stretch, kept_from: datetime) -> tuple[Stretch, list[tuple[Stretch, datetime]]]:
    """The whole hours of what is asked for, and what of it lies before and behind them, each with the hour it is in.

    Before `kept_from`, where single requests may be gone, an hour of which a part is asked for is a whole one.
    """
    since, until = asked
    pieces: list[tuple[Stretch, datetime]] = []
    first, end = since, until
    if since is not None and since != hour_of(since):
        first = hour_of(since)
        if first >= kept_from:
            pieces.append((Stretch(since, first + _HOUR if until is None else min(first + _HOUR, until)), first))
            first += _HOUR
    if until is not None and until != hour_of(until):
        end = hour_of(until)
        if end < kept_from:
            end += _HOUR
        elif since is None or end >= since:  # else the piece before has it already
            pieces.append((Stretch(end, until), end))
    return Stretch(first, end), pieces


def hour_of(moment: datetime) -> datetime:
    """The beginning of the hour (UTC) that the moment is in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def kept_from(now: datetime, days: int) -> datetime:
    """Single requests that ended before may be gone when they are kept so many days."""
    return hour_of(now - timedelta(days=days))


def usage_sums(
    session: Session,
    by: UsageBy,
    asked: Stretch,
    *,
    kept: datetime,
    model: str | None = None,
    key_id: str | None = None,
) -> dict[str, UsageSums]:
    """Sums by the model, key or class of status that they are of, or by the hour or day (UTC) that they are in.

    `kept`: see `kept_from`.
    """
    hours, pieces = split(asked, kept)
    only = {"model": model, "key_id": key_id}
    sums: dict[str, UsageSums] = {}

    def add(name: str, of_class: str, totals: Sequence[Any]) -> None:
        found = _sums(of_class, totals)
        sums[name] = sums[name].plus(found) if name in sums else found

    if hours.since is None or hours.until is None or hours.since < hours.until:
        for hour, name, of_class, *totals in session.execute(_of_hours(by, hours, only)):
            add(_name(by, hour, name, of_class), of_class, totals)
    for piece, hour in pieces:
        for name, of_class, *totals in session.execute(_of_single(by, piece, only)):
            add(_name(by, hour, name, of_class), of_class, totals)
    return dict(sorted(sums.items()))


def usage_requests(
    session: Session,
    asked: Stretch,
    *,
    limit: int,
    after: tuple[datetime, int] | None = None,
    model: str | None = None,
    key_id: str | None = None,
) -> list[KeptRecord]:
    """Single requests that are still kept, those that ended last first. `after`: see `by_time.place_of`."""
    t = _SINGLE.c
    query = select(_SINGLE).where(*within(t.ended_at, asked), *_only(t, {"model": model, "key_id": key_id}))
    if after is not None:
        ended_at, number = after
        query = query.where(t.ended_at <= ended_at, or_(t.ended_at < ended_at, t.id < number))
    query = query.order_by(t.ended_at.desc(), t.id.desc()).limit(limit)
    return [
        KeptRecord(cursor_of(row.ended_at, row.id), UsageRecord(row.ended_at.timestamp(), *row[2:]))
        for row in session.execute(query)
    ]


def tokens_since(session: Session, since: datetime) -> dict[str, int]:
    """The tokens, read and written, by key id, since the beginning of an hour. Keys that used none are not there."""
    t = _HOURLY.c
    query = select(t.key_id, func.sum(t.input_tokens + t.output_tokens)).where(t.hour >= since).group_by(t.key_id)
    return {key_id: int(tokens) for key_id, tokens in session.execute(query)}


def forget_single_requests(session: Session, kept: datetime) -> int:
    """Deletes some of the single requests that ended before `kept`, and what is known of recorders long gone; returns
    how many requests. Call it again while that is not 0: each time it holds its locks for a moment only."""
    t = _SINGLE.c
    some = select(t.id).where(t.ended_at < kept).order_by(t.ended_at).limit(_DELETED_AT_ONCE)
    gone = session.execute(delete(_SINGLE).where(t.id.in_(some)))
    long_gone = kept - timedelta(days=_RECORDERS_DAYS)
    session.execute(delete(UsageBatchRow).where(col(UsageBatchRow.written_at) < long_gone))
    return int(gone.rowcount)  # type: ignore[attr-defined]  # of a DELETE it is there


def _of_hours(by: UsageBy, hours: Stretch, only: dict[str, str | None]) -> Select[Any]:
    t = _HOURLY.c
    named = _named_by(by, t)
    hour = t.hour if by in (UsageBy.HOUR, UsageBy.DAY) else null()
    totals = [func.sum(t[name]) for name in UsageSums._fields if name in t]
    groups = [group for group in (hour, named, t.status_class) if not isinstance(group, Null)]
    return select(hour, named, t.status_class, *totals).where(*within(t.hour, hours), *_only(t, only)).group_by(*groups)


def _of_single(by: UsageBy, piece: Stretch, only: dict[str, str | None]) -> Select[Any]:
    t = _SINGLE.c
    named = _named_by(by, t)
    classes = [(t.status < (hundreds + 1) * 100, status_class(hundreds * 100)) for hundreds in range(1, 5)]
    of_class = case((t.status == GONE, status_class(GONE)), *classes, else_=status_class(500)).label("of_class")
    streamed = t.first_token_seconds > 0
    went_on = streamed & (t.output_tokens > 1)
    totals = (
        func.count(),
        func.sum(t.input_tokens),
        func.sum(t.output_tokens),
        func.sum(t.cached_tokens),
        func.sum(t.first_token_seconds),
        func.sum(case((streamed, 1), else_=0)),
        func.sum(case((went_on, t.seconds - t.first_token_seconds), else_=0.0)),
        func.sum(case((went_on, t.output_tokens - 1), else_=0)),
        func.sum(t.seconds),
    )
    groups = [group for group in (named, of_class) if not isinstance(group, Null)]
    return select(named, of_class, *totals).where(*within(t.ended_at, piece), *_only(t, only)).group_by(*groups)


def _named_by(by: UsageBy, columns: Any) -> ColumnElement[Any]:
    if by is UsageBy.MODEL:
        return columns.model  # type: ignore[no-any-return]
    return columns.key_id if by is UsageBy.KEY else null()


def _name(by: UsageBy, hour: datetime | None, name: str | None, of_class: str) -> str:
    if by is UsageBy.STATUS:
        return of_class
    if name is not None or hour is None:
        return name or ""
    return f"{hour:%Y-%m-%d}" if by is UsageBy.DAY else f"{hour:%Y-%m-%dT%H:%M:%SZ}"


def _sums(of_class: str, totals: Sequence[Any]) -> UsageSums:
    """PostgreSQL adds big integers up to decimals."""
    requests, read, written, cached, first, streams, next_seconds, next_tokens, seconds = totals
    requests = int(requests)
    gone = requests if of_class == status_class(GONE) else 0
    errors = requests if of_class in ("4xx", "5xx") else 0
    tokens = (int(read), int(written), int(cached))
    return UsageSums(requests, errors, gone, *tokens, first, int(streams), next_seconds, int(next_tokens), seconds)


def _only(columns: Any, only: dict[str, str | None]) -> Iterator[ColumnElement[bool]]:
    for name, value in only.items():
        if value is not None:
            yield columns[name] == value
