"""What the replies of a run add up to, and what is wrong with a limit's refusals. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.live.load import Asked

MINUTE = 60.0
REFUSED_FOR_SECONDS = 61.0
"""So long may a request count at most: the oldest second of a minute counts whole."""


class Account(NamedTuple):
    """What one key used. Tokens None: not every answer spoke of them."""

    requests: int
    input: int | None
    output: int | None


def accounts(asked: Iterable[Asked]) -> dict[str, Account]:
    """By key id, of all whole answers of engines."""
    found: dict[str, Account] = {}
    for one in asked:
        if one.turn.question.engine and one.status == 200 and not one.lost:
            before = found.get(one.turn.key.id, Account(0, 0, 0))
            told, known = one.tokens, before.input is not None and before.output is not None
            found[one.turn.key.id] = (
                Account(before.requests + 1, before.input + told.input, before.output + told.output)  # type: ignore[operator]
                if told is not None and known
                else Account(before.requests + 1, None, None)
            )
    return found


def recorded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Account]:
    """By key id, of the database's sums: `key_id`, `requests`, `input_tokens`, `output_tokens`."""
    return {
        row["key_id"]: Account(int(row["requests"]), int(row["input_tokens"]), int(row["output_tokens"]))
        for row in rows
    }


def differences(replies: Mapping[str, Account], database: Mapping[str, Account]) -> list[str]:
    """Where the two do not agree; nothing: they are equal."""
    found = []
    for key_id in sorted(replies.keys() | database.keys()):
        told, kept = replies.get(key_id, Account(0, 0, 0)), database.get(key_id, Account(0, 0, 0))
        if told.requests != kept.requests:
            found.append(f"{key_id}: {told.requests} requests were answered, {kept.requests} are recorded")
        if told.input is not None and (told.input, told.output) != (kept.input, kept.output):
            found.append(
                f"{key_id}: the replies speak of {told.input} + {told.output} tokens, recorded are "
                f"{kept.input} + {kept.output}"
            )
    return found


def reached(replies: Mapping[str, Account], database: Mapping[str, Account]) -> bool:
    """Whether all these answers are recorded, perhaps with more that came since."""
    return all(
        key_id in database and database[key_id].requests >= account.requests for key_id, account in replies.items()
    )


def limit_faults(asked: Sequence[Asked], per_minute: int) -> list[str]:
    """What is wrong with what a key was allowed that may make so many requests a minute; `asked` are all of its."""
    admitted = sorted((one for one in asked if one.status == 200), key=lambda one: one.start)
    faults = []
    for first, last in zip(admitted, admitted[per_minute:], strict=False):
        if last.end - first.start < MINUTE:
            faults.append(f"{per_minute + 1} requests were let in within {last.end - first.start:.2f} s")
    for one in asked:
        if one.refused:
            counted = [a for a in admitted if a.start < one.end and a.end > one.start - REFUSED_FOR_SECONDS]
            if len(counted) < per_minute:
                faults.append(f"refused after {len(counted)} requests in {REFUSED_FOR_SECONDS:g} s")
    return faults
