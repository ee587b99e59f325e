"""API keys as REST writes and reads them."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from stoker.domain.keys import KeyStatus, Role


class KeyCreate(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", description="What it is for: shown in listings."
    )
    role: Role = Field(default=Role.INFERENCE, description="inference: /v1 only. admin: everything.")


class KeyRead(BaseModel):
    """A key as it is listed: never the key itself."""

    id: str
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of_status(cls, status: KeyStatus) -> Self:
        """The key as read from its row."""
        return cls(**status.model_dump())


class KeyCreated(KeyRead):
    """A new key. This is the only time that it is shown."""

    key: str
