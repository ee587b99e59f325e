"""What a whole cluster is to be, as one file says it, and the steps there from what it is."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

from stoker.domain.base import Value
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.field_changes import FieldChange, deployment_changes, field_changes
from stoker.domain.model_routes import RouteSpec


class ClusterSpec(Value):
    """All deployments and routes: those that are wanted, or those that there are."""

    deployments: tuple[DeploymentSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()


class Kind(StrEnum):
    """What a step is about."""

    DEPLOYMENT = "deployment"
    ROUTE = "route"


class Action(StrEnum):
    """What a step does."""

    MAKE = "make"
    CHANGE = "change"
    KEEP = "keep"  # it is as wanted already
    REMOVE = "remove"
    LEAVE = "leave"  # nothing is said of it, and what nothing is said of is not removed


class Step(Value):
    """What becomes of one deployment or route."""

    kind: Kind
    name: str
    action: Action
    changes: tuple[FieldChange, ...] = ()
    replaces: bool = False  # whether a deployment's instances are replaced, one by one


class Fault(Value):
    """What no cluster can be. `path` leads to the field, as in ("routes", 0, "targets", 1, "deployment")."""

    path: tuple[str | int, ...]
    value: str
    message: str


def plan(wanted: ClusterSpec, current: ClusterSpec, *, prune: bool = False) -> tuple[Step, ...]:
    """The steps from `current` to `wanted`, in the order in which they can be taken.

    Deployments come before the routes that lead to them, and routes go before the deployments that they led to. What
    `wanted` does not name is removed with `prune`, and left alone without.
    """
    before = {spec.name: spec for spec in current.deployments}
    routes_before = {spec.name: spec for spec in current.routes}
    named = {spec.name for spec in wanted.deployments}
    routes_named = {spec.name for spec in wanted.routes}
    surplus = Action.REMOVE if prune else Action.LEAVE
    return (
        *(_deployment_step(spec, before.get(spec.name)) for spec in wanted.deployments),
        *(_route_step(spec, routes_before.get(spec.name)) for spec in wanted.routes),
        *(Step(kind=Kind.ROUTE, name=name, action=surplus) for name in routes_before if name not in routes_named),
        *(Step(kind=Kind.DEPLOYMENT, name=name, action=surplus) for name in before if name not in named),
    )


def faults(wanted: ClusterSpec, current: ClusterSpec, *, prune: bool = False) -> list[Fault]:
    """What in `wanted` contradicts itself or what there is, all of it. Empty: every step can be taken."""
    named = [spec.name for spec in wanted.deployments]
    there = {spec.name for spec in current.deployments}
    reachable = set(named) if prune else {*named, *there}
    routes_named = {spec.name for spec in wanted.routes}
    left = set() if prune else {spec.name for spec in current.routes} - routes_named
    found = [*_twice("deployments", named), *_twice("routes", [spec.name for spec in wanted.routes])]
    for index, name in enumerate(named):
        if name in left and name not in there:
            message = (
                "a route of the cluster has this name, and a deployment's own name wins: its requests would go to the "
                "new deployment. Choose another, or delete the route"
            )
            found.append(Fault(path=("deployments", index, "name"), value=name, message=message))
    for index, route in enumerate(wanted.routes):
        path = ("routes", index)
        if route.name in named:
            message = "a deployment has this name too, and a deployment's own name wins: choose another"
            found.append(Fault(path=(*path, "name"), value=route.name, message=message))
        elif route.name in there:
            message = "a deployment of the cluster has this name, and its own name wins: choose another, or delete it"
            found.append(Fault(path=(*path, "name"), value=route.name, message=message))
        targets = [target.deployment for target in route.targets]
        fallbacks = [fallback.deployment for fallback in route.fallbacks]
        for field, leads in (("targets", targets), ("fallbacks", fallbacks)):
            for position, name in enumerate(leads):
                if name in reachable:
                    continue
                message = "the file names no such deployment, and the cluster has none: add it, or choose another"
                if name in there:
                    message = "the file does not name this deployment, so that --prune removes it: add it"
                found.append(Fault(path=(*path, field, position, "deployment"), value=name, message=message))
    return found


def _deployment_step(wanted: DeploymentSpec, before: DeploymentSpec | None) -> Step:
    if before is None:
        return Step(kind=Kind.DEPLOYMENT, name=wanted.name, action=Action.MAKE)
    if before == wanted:
        return Step(kind=Kind.DEPLOYMENT, name=wanted.name, action=Action.KEEP)
    return Step(
        kind=Kind.DEPLOYMENT,
        name=wanted.name,
        action=Action.CHANGE,
        changes=deployment_changes(before, wanted),
        replaces=not before.same_instances(wanted),
    )


def _route_step(wanted: RouteSpec, before: RouteSpec | None) -> Step:
    if before is None:
        return Step(kind=Kind.ROUTE, name=wanted.name, action=Action.MAKE)
    if before == wanted:
        return Step(kind=Kind.ROUTE, name=wanted.name, action=Action.KEEP)
    changes = field_changes(_written_route(before), _written_route(wanted))
    return Step(kind=Kind.ROUTE, name=wanted.name, action=Action.CHANGE, changes=changes)


def _written_route(spec: RouteSpec) -> dict[str, Any]:
    """Its targets and fallbacks in short: `llama=9`, `smol:429,503`."""
    return {
        "targets": [f"{target.deployment}={target.weight}" for target in spec.targets],
        "fallbacks": [f"{each.deployment}:{','.join(map(str, each.statuses))}" for each in spec.fallbacks],
    }


def _twice(kind: str, names: Iterable[str]) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            message = f"{kind}.{first[name]} has this name already: each name stands once"
            yield Fault(path=(kind, index, "name"), value=name, message=message)
        first.setdefault(name, index)
