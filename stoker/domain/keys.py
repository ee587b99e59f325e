"""API keys: who may do what, and how much of it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from stoker.domain.base import Value

Limit = Annotated[int, Field(ge=1, le=2**53)]


class Role(StrEnum):
    """ADMIN may do everything; USER may call /v1 only."""

    ADMIN = "admin"
    USER = "user"


class KeyLimits(Value):
    """How much a key may ask of /v1; None: as much as there is. Tokens are those read and written together."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    tokens_per_month: Limit | None = None  # of the calendar, UTC
    concurrency: Limit | None = None  # requests being worked on at once


class KeyStatus(Value):
    """A key as it is listed. The key itself is shown once, when it is made."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None = None  # None: never
    revoked_at: datetime | None = None
    models: tuple[str, ...] = ()  # the only ones that it may ask, as clients name them; empty: all
    limits: KeyLimits = KeyLimits()
