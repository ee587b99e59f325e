"""API keys: who may do what."""

from datetime import datetime
from enum import StrEnum

from stoker.domain.base import Value


class Role(StrEnum):
    """ADMIN may do everything; INFERENCE may call /v1 only."""

    ADMIN = "admin"
    INFERENCE = "inference"


class KeyStatus(Value):
    """A key as it is listed. The key itself is shown once, when it is made."""

    id: str
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None
