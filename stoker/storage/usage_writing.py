"""Records of usage on their way into the tables: single requests, and with them the sums of their hours.

A recorder numbers its batches. A batch goes in whole with its number, so that one whose commit nobody heard of can be
sent again: what is written already is known by the number. Since an hour's sums grow in that same transaction, they
are complete whenever they are read, and single requests may go when their time is over.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col

from stoker.domain.usage import GONE, UsageRecord, UsageSums, status_class
from stoker.storage.engine import INSERTS
from stoker.storage.tables import UsageBatchRow, UsageHourRow, table_of

HOUR_SECONDS = 3600

_SLICE = 64
_PAUSE_SECONDS = 0.001
"""So many records are handed to the driver at once, in a fraction of a millisecond; then this thread pauses: another
one of its process answers requests, and would else wait for its turn."""

_ROUNDED = 5e-7  # seconds: moments are kept to the microsecond

_COLUMNS = ("ended_at", *UsageRecord._fields[1:])
_COPY = f"COPY usage ({', '.join(_COLUMNS)}) FROM STDIN"
_INSERT = f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - names


class Batch(NamedTuple):
    """Some records. The numbers of one recorder's batches grow."""

    number: int
    records: Sequence[UsageRecord]


def write_batches(session: Session, recorder: str, batches: Iterable[Batch], now: datetime) -> int:
    """Writes those of the recorder's batches that are not there yet; returns how many records it has written in all.

    In a write transaction. `batches` by number. Should an earlier attempt still be under way in the database, this
    waits for its end.
    """
    written, records = _progress(session, recorder, now)
    fresh = [batch for batch in batches if batch.number > written]
    if not fresh:
        return records
    for batch in fresh:
        _write_rows(session, batch.records)
        records += len(batch.records)
    session.execute(
        update(UsageBatchRow)
        .where(col(UsageBatchRow.recorder) == recorder)
        .values(batch=fresh[-1].number, records=records, written_at=now)
    )
    sums: dict[tuple[int, str, str, str], UsageSums] = {}
    for batch in fresh:
        for group, found in sums_by_hour(batch.records).items():
            sums[group] = sums[group].plus(found) if group in sums else found
        time.sleep(_PAUSE_SECONDS)
    _add_sums(session, sums)  # last: other recorders wait for these rows until we have committed
    return records


def forget_recorder(session: Session, recorder: str) -> None:
    """Forgets how far a recorder came that has nothing more to write."""
    session.execute(delete(UsageBatchRow).where(col(UsageBatchRow.recorder) == recorder))


def sums_by_hour(records: Iterable[UsageRecord]) -> dict[tuple[int, str, str, str], UsageSums]:
    """The sums by hour (Unix seconds of its beginning), key, model and class of status."""
    totals: dict[tuple[int, str, str, int], list[Any]] = {}
    for record in records:
        key = (int(record[0] + _ROUNDED) // HOUR_SECONDS, record[1], record[2], record[6])
        total = totals.get(key)
        if total is None:
            total = totals[key] = [0, 0, 0, 0, 0.0, 0, 0.0, 0, 0.0]
        output, first, seconds = record[9], record[11], record[12]
        total[0] += 1
        total[1] += record[8]
        total[2] += output
        total[3] += record[10]
        if first:
            total[4] += first
            total[5] += 1
            if output > 1:
                total[6] += seconds - first
                total[7] += output - 1
        total[8] += seconds
    found: dict[tuple[int, str, str, str], UsageSums] = {}
    for (hour, key_id, model, status), total in totals.items():
        of_class = (hour * HOUR_SECONDS, key_id, model, status_class(status))
        errors, gone = (0, total[0]) if status == GONE else (total[0] if status >= 400 else 0, 0)
        found[of_class] = found.get(of_class, UsageSums()).plus(UsageSums(total[0], errors, gone, *total[1:]))
    return found


def _progress(session: Session, recorder: str, now: datetime) -> tuple[int, int]:
    """The recorder's last batch and how many records it has written. Holds its row, which is made if need be."""
    insert = INSERTS[session.get_bind().dialect.name](table_of(UsageBatchRow))
    begun = (
        insert.values(recorder=recorder, batch=0, records=0, written_at=now)
        .on_conflict_do_update(index_elements=["recorder"], set_={"written_at": insert.excluded.written_at})
        .returning(col(UsageBatchRow.batch), col(UsageBatchRow.records))
    )
    batch, records = session.execute(begun).one()
    return batch, records


def _write_rows(session: Session, records: Sequence[UsageRecord]) -> None:
    """By the drivers' own quickest ways, since these are the only rows that come by the thousand."""
    driver: Any = session.connection().connection.driver_connection
    slices = (records[at : at + _SLICE] for at in range(0, len(records), _SLICE))
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    errors: type[Exception] = sqlite3.Error if is_sqlite else psycopg.Error
    try:
        if is_sqlite:
            for some in slices:
                driver.executemany(_INSERT, _as_text(some))
                time.sleep(_PAUSE_SECONDS)
            return
        with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            for some in slices:
                for record in some:
                    copy.write_row((datetime.fromtimestamp(record[0], UTC), *record[1:]))
                time.sleep(_PAUSE_SECONDS)
    except errors as error:  # the driver's own: SQLAlchemy was not asked
        raise DBAPIError.instance("writing usage", None, error, errors) from error


def _as_text(records: Iterable[UsageRecord]) -> Iterator[tuple[Any, ...]]:
    """As SQLAlchemy keeps moments in SQLite."""
    for record in records:
        yield (datetime.fromtimestamp(record[0], UTC).strftime("%Y-%m-%d %H:%M:%S.%f"), *record[1:])


def _add_sums(session: Session, sums: dict[tuple[int, str, str, str], UsageSums]) -> None:
    table = table_of(UsageHourRow)
    insert = INSERTS[session.get_bind().dialect.name](table)
    kept = [name for name in UsageSums._fields if name in table.c]  # errors and those gone are told by their class
    added = insert.on_conflict_do_update(
        index_elements=["hour", "key_id", "model", "status_class"],
        set_={name: table.c[name] + insert.excluded[name] for name in kept},
    )
    rows = [
        {"hour": datetime.fromtimestamp(hour, UTC), "key_id": key_id, "model": model, "status_class": of_class}
        | {name: getattr(total, name) for name in kept}
        for (hour, key_id, model, of_class), total in sorted(sums.items())  # in one order: nobody waits in a circle
    ]
    session.execute(added, rows)
