"""One-time join tokens as REST writes and reads them."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.integers import Integer
from stoker.domain.join_tokens import JoinTokenStatus

DEFAULT_TTL_SECONDS = 3600
LONGEST_TTL_SECONDS = 30 * 24 * 3600

_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
LabelText = Annotated[str, Field(max_length=200, pattern=_PRINTABLE)]


class JoinTokenCreate(BaseModel):
    """A token to make: one worker may join with it."""

    model_config = ConfigDict(extra="forbid")

    ttl_seconds: Integer = Field(
        default=DEFAULT_TTL_SECONDS,
        ge=1,
        le=LONGEST_TTL_SECONDS,
        description="How long it can be used; 30 days at most.",
    )
    labels: dict[LabelText, LabelText] = Field(
        default_factory=dict,
        max_length=64,
        description="The worker that joins with it gets these labels; they come before its own of the same name.",
    )


class JoinTokenRead(BaseModel):
    """A token as it is listed: never the token itself."""

    id: str
    labels: dict[str, str]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    used_by: str = Field(description="The worker that joined with it; empty: none yet.")

    @classmethod
    def of_status(cls, status: JoinTokenStatus) -> Self:
        """The token as read from its row."""
        return cls(**status.model_dump())


class JoinTokenCreated(JoinTokenRead):
    """A new token. This is the only time that it is shown."""

    token: str
    authority_fingerprint: str = Field(
        description="SHA-256 of the certificate of the cluster's authority. It is part of the token: an agent joins no "
        "server whose authority is another."
    )
