"""API keys as REST writes and reads them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from api.schemas.integers import NO_OTHER_KIND, Integer
from api.schemas.moments import Moment
from stoker.domain.keys import KeyStatus, Limit, Role
from stoker.domain.model_routes import ROUTE_NAME_HINT, ROUTE_NAME_PATTERN

LONGEST_EXPIRY_SECONDS = 100 * 365 * 24 * 3600

KeyName = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


_Limit = Annotated[Limit, NO_OTHER_KIND]


class LimitsWrite(BaseModel):
    """How much a key may ask of /v1; null: as much as there is."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: _Limit | None = Field(default=None, description="In any 60 seconds.")
    tokens_per_minute: _Limit | None = Field(
        default=None, description="In any 60 seconds, read and written ones together."
    )
    tokens_per_month: _Limit | None = Field(default=None, description="Of the calendar, UTC.")
    concurrency: _Limit | None = Field(default=None, description="Requests worked on at once.")


class _KeyWrite(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("models", check_fields=False)
    @classmethod
    def _are_models(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(ROUTE_NAME_PATTERN, name):
                raise ValueError(f"{name[:150]!r} cannot be a model's name: write {ROUTE_NAME_HINT}")
        return list(dict.fromkeys(value))

    @field_validator("expires_at", check_fields=False)
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        try:
            return value.astimezone(UTC) if value is not None else None
        except OverflowError as error:
            raise ValueError("such a moment does not exist in UTC") from error

    @field_validator("expires_in_seconds", check_fields=False)
    @classmethod
    def _is_one_of_two(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("expires_at") is not None:
            raise ValueError("say either expires_at or expires_in_seconds")
        return value


class KeyCreate(_KeyWrite):
    """A key to make."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "chat app",
                "expires_in_seconds": 2_592_000,
                "models": ["smol"],
                "limits": {"requests_per_minute": 60, "tokens_per_minute": 100_000},
            }
        }
    )

    name: KeyName = Field(description="What it is for: shown in listings.")
    role: Role = Field(default=Role.USER, description="user: /v1 only. admin: everything.")
    expires_at: Moment | None = Field(
        default=None, description="When it opens nothing any more; null: it never expires."
    )
    expires_in_seconds: Integer | None = Field(
        default=None, ge=1, le=LONGEST_EXPIRY_SECONDS, description="The same, counted from now."
    )
    models: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="The only models that it may ask, deployments' names or routes'; empty: all.",
    )
    limits: LimitsWrite = LimitsWrite()

    def expiry(self, now: datetime) -> datetime | None:
        """When it expires; None: never."""
        return _expiry(self.expires_at, self.expires_in_seconds, now)


class KeyUpdate(_KeyWrite):
    """What to change; what is left out stays. `limits` is merged field by field; null lifts a limit."""

    name: KeyName | None = None
    expires_at: Moment | None = Field(default=None, description="null: it never expires.")
    expires_in_seconds: Integer | None = Field(
        default=None, ge=1, le=LONGEST_EXPIRY_SECONDS, description="The same, counted from now."
    )
    models: list[str] | None = Field(default=None, max_length=100, description="Instead of those before; []: all.")
    limits: LimitsWrite | None = None

    @field_validator("name", "expires_in_seconds", "models", "limits", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("leave a field out to keep it; null is no value for it")
        return value

    def merged(self, status: KeyStatus, now: datetime) -> KeyStatus:
        """The key as it should be, from what it is and what changes."""
        changes: dict[str, Any] = {}
        if self.name is not None:
            changes["name"] = self.name
        if {"expires_at", "expires_in_seconds"} & self.model_fields_set:
            changes["expires_at"] = _expiry(self.expires_at, self.expires_in_seconds, now)
        if self.models is not None:
            changes["models"] = tuple(self.models)
        if self.limits is not None:
            changes["limits"] = status.limits.model_copy(update=self.limits.model_dump(exclude_unset=True))
        return status.model_copy(update=changes)


class LimitsRead(BaseModel):
    """How much a key may ask of /v1; null: as much as there is."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_month: int | None
    concurrency: int | None


class KeyRead(BaseModel):
    """A key as it is listed: never the key itself."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None = Field(description="null: it never expires.")
    revoked_at: datetime | None
    models: list[str] = Field(description="The only ones that it may ask; empty: all.")
    limits: LimitsRead

    @classmethod
    def of_status(cls, status: KeyStatus) -> Self:
        """The key as read from its row."""
        return cls(**status.model_dump())


class KeyCreated(KeyRead):
    """A new key. This is the only time that it is shown."""

    key: str


def _expiry(at: datetime | None, in_seconds: int | None, now: datetime) -> datetime | None:
    return now + timedelta(seconds=in_seconds) if in_seconds is not None else at
