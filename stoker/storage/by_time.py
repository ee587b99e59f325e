"""Listings by time, the newest first: a stretch of it, and places in them, each a moment and the number of a row."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement

_EPOCH = datetime.fromtimestamp(0, UTC)

CURSOR_PATTERN = "^([0-9]{1,18}-[0-9]{1,18})?$"
"""What a cursor looks like; empty: the beginning."""


class Stretch(NamedTuple):
    """From `since` to before `until`; None: from the beginning, or to the end."""

    since: datetime | None
    until: datetime | None


def within(moment: ColumnElement[datetime], asked: Stretch) -> Iterator[ColumnElement[bool]]:
    """The conditions of a query that a column's moment lies in the stretch."""
    if asked.since is not None:
        yield moment >= asked.since
    if asked.until is not None:
        yield moment < asked.until


def cursor_of(moment: datetime, number: int) -> str:
    """Where the next page begins: behind the row of that number."""
    return f"{(moment - _EPOCH) // timedelta(microseconds=1)}-{number}"


def place_of(cursor: str) -> tuple[datetime, int]:
    """The moment and the number that a page goes on behind. Raises ValueError for what is no cursor."""
    microseconds, _, number = cursor.partition("-")
    try:
        return _EPOCH + timedelta(microseconds=int(microseconds)), int(number)
    except OverflowError as error:
        raise ValueError(f"{cursor!r} is no place in the listing") from error
