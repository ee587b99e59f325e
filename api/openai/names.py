"""What clients may call a model: a deployment's own name, or a route's, which stands for one or several. Pure."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from api.openai.errors import APIError, model_not_found
from api.openai.router import RouteTable
from stoker.domain.base import DeploymentName
from stoker.domain.model_routes import RouteSpec, RouteTarget


class Step(NamedTuple):
    """A deployment to ask: the first one, or when the ones before it answered with one of `after`."""

    deployment: DeploymentName
    after: frozenset[int] = frozenset()


def steps_of(route: RouteSpec, number: float) -> list[Step]:
    """Whom to ask for a route, in order: one of its targets, drawn by `number` (from 0 to below 1), then fallbacks.

    A fallback that was drawn anyway is not asked twice.
    """
    first = draw(route.targets, number)
    others = [Step(each.deployment, frozenset(each.statuses)) for each in route.fallbacks if each.deployment != first]
    return [Step(first), *others]


def draw(targets: Iterable[RouteTarget], number: float) -> DeploymentName:
    """The target on whose share of the weights `number` falls, from 0 to below 1. One of them has a weight."""
    weighted = [target for target in targets if target.weight]
    left = number * sum(target.weight for target in weighted)
    for target in weighted:
        left -= target.weight
        if left < 0:
            return target.deployment
    return weighted[-1].deployment


def next_step(steps: list[Step], statuses: Collection[int]) -> Step | None:
    """The next deployment to ask after answers of `statuses`, taken off `steps` with those passed over; None: none."""
    while steps:
        step = steps.pop(0)
        if not step.after.isdisjoint(statuses):
            return step
    return None


def told(errors: Sequence[APIError]) -> APIError:
    """Which of the errors of all that were asked the client sees: the first that says to try again, for then one of
    them may answer; else the first that is not just of a deployment that is gone; else the first."""
    for error in errors:
        if error.should_retry:
            return error
    return next((error for error in errors if error.status != 404), errors[0])


def target_gone(asked: str, deployment: DeploymentName) -> APIError:
    """404: what a route leads to is not there."""
    error = model_not_found(asked)
    error.message = f"The model {asked!r} leads to the deployment {deployment!r}, which does not exist."
    return error


def created_at(table: RouteTable, route: RouteSpec) -> int:
    """When the oldest deployment that a route leads to was created, in Unix seconds; 0: there is none."""
    names = [target.deployment for target in route.targets]
    return min((table.models[name].created for name in names if name in table.models), default=0)
