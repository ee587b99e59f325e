"""Records for tests, numbered by their input tokens, and what a database has of them."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func
from sqlmodel import Session, col, select

from api.usage.tally import DROPPED, MADE, REFUSED
from stoker.domain.usage import UsageRecord
from stoker.storage.engine import Database
from stoker.storage.tables import UsageHourRow, UsageRow

WITHIN_SECONDS = 30.0


def record(number: int) -> UsageRecord:
    """The record of this number."""
    return UsageRecord(time.time(), "k", "m", "m", "m-1", "/chat/completions", 200, True, number, 5, 0, 0.25, 1.25)


def numbers(database: Database) -> list[int]:
    """Those of all records that were written, in the order in which they were. The sums tell the same."""
    with database.read() as session:
        found, sums = _found(session), _sums(session)
        while (again := _found(session)) != found:  # two statements see two moments: more was written meanwhile
            found, sums = again, _sums(session)
        assert sums == (len(found), sum(found))
    return found


def _found(session: Session) -> list[int]:
    return list(session.exec(select(UsageRow.input_tokens).order_by(col(UsageRow.id))))


def _sums(session: Session) -> tuple[int, int]:
    query = select(func.sum(UsageHourRow.requests), func.sum(UsageHourRow.input_tokens))
    requests, tokens = session.exec(query).one()
    return int(requests or 0), int(tokens or 0)


def until(condition: Callable[[], object], what: object = "") -> None:
    """Waits for what another thread or process does."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def tallied(folder: Path) -> dict[str, int]:
    """What the only tally of the folder says."""
    (path,) = folder.glob("*.tally")
    words = memoryview(path.read_bytes()).cast("Q")
    return {"made": words[MADE], "refused": words[REFUSED], "dropped": words[DROPPED]}


def said(logs: list[dict[str, object]], event: str) -> dict[str, object]:
    """The only line of the log with this event."""
    found = [line for line in logs if line["event"] == event]
    assert len(found) == 1, json.dumps(logs, default=str)
    return found[0]
