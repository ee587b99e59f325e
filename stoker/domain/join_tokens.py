"""One-time join tokens: each lets one machine become a worker."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from stoker.domain.base import Value


class JoinTokenStatus(Value):
    """A token as it is listed. The token itself is shown once, when it is made."""

    id: str
    labels: dict[str, str] = Field(default_factory=dict)  # of the worker that joins with it, before its own
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: str = ""  # the worker


class JoinTokenProblem(StrEnum):
    """Why a token lets nobody in."""

    UNKNOWN = "join_token_unknown"
    EXPIRED = "join_token_expired"
    USED = "join_token_used"


class TokenRefused(Value):
    """The token lets the worker in that showed it not; `status` where the token is known."""

    problem: JoinTokenProblem
    status: JoinTokenStatus | None = None
