"""Names that are no deployment's own: aliases, shares of the requests (canary), and where to turn when one fails."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from stoker.domain.base import DeploymentName, Value

ROUTE_NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._:@/+-]{0,126}[A-Za-z0-9])?$"
ROUTE_NAME_HINT = "letters, digits and . _ : @ / + -, starting and ending with a letter or digit, at most 128"

RouteName = Annotated[str, StringConstraints(pattern=ROUTE_NAME_PATTERN)]
"""What clients put into `model`: "gpt-4o", "meta-llama/Llama-3.1-8B". A deployment's own name wins over a route's."""

FALLBACK_STATUSES = frozenset({404, 429, 500, 502, 503, 504})
"""With which another model may be asked. 404: the deployment is not there."""


class RouteTarget(Value):
    """A deployment, and its share of the requests: its weight of the sum of all weights. 0: none for now."""

    deployment: DeploymentName
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1


class Fallback(Value):
    """A deployment to ask when the ones before it answered with one of `statuses`."""

    deployment: DeploymentName
    statuses: tuple[int, ...] = (404, 429, 502, 503, 504)

    @model_validator(mode="after")
    def _check_statuses(self) -> Self:
        wrong = sorted(set(self.statuses) - FALLBACK_STATUSES)
        if wrong or not self.statuses:
            allowed = ", ".join(map(str, sorted(FALLBACK_STATUSES)))
            raise ValueError(f"statuses: {wrong or 'none'} cannot lead to another model: choose from {allowed}")
        return self


class RouteSpec(Value):
    """What a name means: one of `targets` is drawn by weight, then `fallbacks` are asked in their order."""

    name: RouteName
    targets: Annotated[tuple[RouteTarget, ...], Field(min_length=1, max_length=16)]
    fallbacks: Annotated[tuple[Fallback, ...], Field(max_length=8)] = ()

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        names = [target.deployment for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"targets: {', '.join(twice)} is named twice: give it the sum of the weights once")
        if not any(target.weight for target in self.targets):
            raise ValueError("targets: all weights are 0: give one of them at least 1")
        return self


class RouteStatus(Value):
    """A route as it is read back."""

    spec: RouteSpec
    created_at: datetime
    updated_at: datetime
