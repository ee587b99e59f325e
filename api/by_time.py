"""What is asked of a listing by time, as REST writes it."""

from datetime import UTC, datetime

from api.errors import FieldError, ProblemError
from stoker.storage.by_time import Stretch, place_of

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Nothing happened before or will after: what lies beyond is taken for these, that no arithmetic overflows."""


def stretch(since: datetime | None, until: datetime | None) -> Stretch:
    """From `since` to before `until`. Raises ProblemError where nothing lies between."""
    earliest = None if since is None else min(max(since, _FIRST), _LAST).astimezone(UTC)
    latest = None if until is None else min(max(until, _FIRST), _LAST).astimezone(UTC)
    if since is not None and until is not None and since >= until:
        raise _refused("until", until.isoformat(), f"must be later than since, {since.isoformat()}")
    return Stretch(earliest, latest)


def place(after: str) -> tuple[datetime, int] | None:
    """What the page goes on behind; None: it is the first one. Raises ProblemError."""
    try:
        return place_of(after) if after else None
    except ValueError as error:
        raise _refused("after", after, str(error)) from error


def _refused(field: str, value: str, message: str) -> ProblemError:
    errors = [FieldError(field=field, message=message, value=value)]
    return ProblemError("invalid_request", f"{field}: {message}", errors=errors)
