"""Moments as REST reads them."""

import re
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator

_WRITTEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _is_written(value: object) -> object:
    """Pydantic takes numbers for seconds, or for milliseconds where they are large: nobody means that here."""
    if isinstance(value, int | float) or (isinstance(value, str) and not _WRITTEN.match(value)):
        raise ValueError("write a date and time with their offset, as in RFC 3339: 2026-03-01T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_written)]
"""RFC 3339, with an offset."""
