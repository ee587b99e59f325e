"""Routes as REST writes and reads them: names that clients may use for deployments."""

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from api.schemas.integers import Integer
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN
from stoker.domain.model_routes import Fallback, RouteSpec, RouteStatus, RouteTarget

DeploymentField = Annotated[str, Field(pattern=DEPLOYMENT_NAME_PATTERN, description="A deployment that exists.")]


class TargetWrite(BaseModel):
    """A deployment that the name leads to."""

    model_config = ConfigDict(extra="forbid")

    deployment: DeploymentField
    weight: Integer = Field(
        default=1, ge=0, le=1_000_000, description="Its share of the conversations: of the sum of all weights."
    )


class FallbackWrite(BaseModel):
    """A deployment to ask when those before it failed."""

    model_config = ConfigDict(extra="forbid")

    deployment: DeploymentField
    statuses: list[int] = Field(
        default=[404, 429, 502, 503, 504],
        min_length=1,
        max_length=6,
        description="It is asked after one of these: 404 (the deployment is gone), 429, 500, 502, 503, 504.",
    )

    @field_validator("statuses")
    @classmethod
    def _can_lead_on(cls, value: list[int]) -> list[int]:
        _checked(lambda: Fallback(deployment="any", statuses=tuple(value)))
        return value


class RouteWrite(BaseModel):
    """What a name leads to."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "targets": [{"deployment": "llama", "weight": 9}, {"deployment": "llama-next", "weight": 1}],
                "fallbacks": [{"deployment": "smol", "statuses": [429, 503]}],
            }
        },
    )

    targets: list[TargetWrite] = Field(
        min_length=1, max_length=16, description="One of them is drawn by weight; a conversation stays with its own."
    )
    fallbacks: list[FallbackWrite] = Field(default_factory=list, max_length=8, description="Asked in this order.")

    @field_validator("targets")
    @classmethod
    def _make_a_draw(cls, value: list[TargetWrite]) -> list[TargetWrite]:
        _checked(lambda: RouteSpec(name="any", targets=tuple(RouteTarget(**each.model_dump()) for each in value)))
        return value

    def spec(self, name: str) -> RouteSpec:
        """The same, as the domain says it."""
        return RouteSpec(
            name=name,
            targets=tuple(RouteTarget(**target.model_dump()) for target in self.targets),
            fallbacks=tuple(Fallback(**fallback.model_dump()) for fallback in self.fallbacks),
        )


class RouteRead(RouteWrite):
    """A route: a name that clients may use, and what it leads to."""

    name: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of_status(cls, status: RouteStatus) -> Self:
        """The route as read from its row."""
        content: dict[str, Any] = status.spec.model_dump(mode="json")
        return cls(**content, created_at=status.created_at, updated_at=status.updated_at)


def etag_of(spec: RouteSpec) -> str:
    """What tells this content from another."""
    return sha256(spec.model_dump_json().encode()).hexdigest()[:16]


def _checked(make: Any) -> None:
    """Has the domain look, and says what it says as this field's error."""
    try:
        make()
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(message.partition(": ")[2] or message) from error
