"""From what a cluster is to what a file says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.cluster_plan import Action, ClusterSpec, Kind, Step, faults, plan
from stoker.domain.deployments import DeploymentSpec, EngineOptions
from stoker.domain.field_changes import FieldChange
from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget
from tests.builders import make_spec

NAMES = ("a", "b", "c", "d")


def route(name: str, *targets: str, fallbacks: tuple[Fallback, ...] = ()) -> RouteSpec:
    return RouteSpec(name=name, targets=tuple(RouteTarget(deployment=each) for each in targets), fallbacks=fallbacks)


def cluster(*deployments: DeploymentSpec, routes: tuple[RouteSpec, ...] = ()) -> ClusterSpec:
    return ClusterSpec(deployments=deployments, routes=routes)


def taken(steps: tuple[Step, ...], wanted: ClusterSpec, current: ClusterSpec) -> ClusterSpec:
    """What there is after the steps, each of which must be possible when its turn comes."""
    deployments = {spec.name: spec for spec in current.deployments}
    routes = {spec.name: spec for spec in current.routes}
    for step in steps:
        there = deployments if step.kind is Kind.DEPLOYMENT else routes
        assert (step.name in there) is (step.action is not Action.MAKE)
        if step.action is Action.REMOVE:
            del there[step.name]
        elif step.action in (Action.MAKE, Action.CHANGE):
            asked = wanted.deployments if step.kind is Kind.DEPLOYMENT else wanted.routes
            there[step.name] = next(spec for spec in asked if spec.name == step.name)  # type: ignore[assignment]
        for each in routes.values():
            assert {target.deployment for target in each.targets} <= deployments.keys(), "a route that leads nowhere"
    return ClusterSpec(deployments=tuple(deployments.values()), routes=tuple(routes.values()))


def test_each_step_is_named_and_in_an_order_that_can_be_taken() -> None:
    wanted = cluster(make_spec(name="new"), make_spec(name="same"), routes=(route("alias", "new"),))
    current = cluster(make_spec(name="same"), make_spec(name="old"), routes=(route("stale", "old"),))
    steps = plan(wanted, current, prune=True)
    assert [(step.kind, step.name, step.action) for step in steps] == [
        ("deployment", "new", "make"),
        ("deployment", "same", "keep"),
        ("route", "alias", "make"),
        ("route", "stale", "remove"),
        ("deployment", "old", "remove"),
    ]
    without = plan(wanted, current)
    assert [(step.name, step.action) for step in without[3:]] == [("stale", "leave"), ("old", "leave")]


def test_a_change_says_its_fields_and_whether_instances_are_replaced() -> None:
    before = make_spec(name="a", worker_selector={"zone": "lab"})
    options = before.options.model_copy(update={"slots": 8})
    grown = make_spec(name="a", options=options, devices=(("box-1", "gpu0"),), replicas=2)
    (step,) = plan(cluster(grown), cluster(before))
    assert step.changes == (
        FieldChange(field="replicas", before=1, after=2),
        FieldChange(field="worker_selector", before={"zone": "lab"}, after={}),
        FieldChange(field="devices", before=[], after=["box-1/gpu0"]),
        FieldChange(field="options.slots", before=4, after=8),
    )
    assert step.replaces
    (scaled,) = plan(cluster(before.model_copy(update={"replicas": 3})), cluster(before))
    assert (scaled.action, scaled.replaces) == (Action.CHANGE, False)


def test_a_route_changes_in_short() -> None:
    before = route("r", "a", "b", fallbacks=(Fallback(deployment="c", statuses=(503,)),))
    (step,) = plan(ClusterSpec(routes=(route("r", "a"),)), ClusterSpec(routes=(before,)))
    assert step.changes == (
        FieldChange(field="targets", before=["a=1", "b=1"], after=["a=1"]),
        FieldChange(field="fallbacks", before=["c:503"], after=[]),
    )


@pytest.mark.parametrize(
    ("wanted", "prune", "expected"),
    [
        (cluster(make_spec(name="a"), make_spec(name="b")), False, []),
        (
            cluster(make_spec(name="a"), make_spec(name="a")),
            False,
            ["deployments.1.name a: deployments.0 has this name"],
        ),
        (
            cluster(routes=(route("r", "there"), route("r", "there"))),
            False,
            ["routes.1.name r: routes.0 has this name"],
        ),
        (
            cluster(make_spec(name="a"), routes=(route("a", "a"),)),
            False,
            ["routes.0.name a: a deployment has this name"],
        ),
        (cluster(routes=(route("there", "there"),)), False, ["routes.0.name there: a deployment of the cluster has"]),
        (cluster(routes=(route("r", "there"),)), False, []),
        (cluster(routes=(route("r", "there"),)), True, ["routes.0.targets.0.deployment there: the file does not name"]),
        (
            cluster(routes=(route("r", "there", "x"),)),
            False,
            ["routes.0.targets.1.deployment x: the file names no such"],
        ),
        (
            cluster(routes=(route("r", "there", fallbacks=(Fallback(deployment="x"),)),)),
            False,
            ["routes.0.fallbacks.0.deployment x: the file names no such deployment, and the cluster has none"],
        ),
    ],
)
def test_what_no_cluster_can_be_is_a_fault(wanted: ClusterSpec, prune: bool, expected: list[str]) -> None:
    found = [
        f"{'.'.join(map(str, fault.path))} {fault.value}: {fault.message}"
        for fault in faults(wanted, cluster(make_spec(name="there")), prune=prune)
    ]
    assert len(found) == len(expected)
    for told, begins in zip(found, expected, strict=True):
        assert told.startswith(begins)


@pytest.mark.parametrize(
    ("wanted", "prune", "expected"),
    [
        (cluster(make_spec(name="r")), False, [("deployments", 0, "name")]),
        (cluster(make_spec(name="r")), True, []),  # the route goes
        (cluster(make_spec(name="r"), routes=(route("r", "there"),)), False, [("routes", 0, "name")]),
        (cluster(make_spec(name="both")), False, []),  # nothing changes for whoever asks for it
        (cluster(make_spec(name="a")), False, []),
    ],
)
def test_a_new_deployment_takes_no_name_from_a_route(
    wanted: ClusterSpec, prune: bool, expected: list[tuple[str, int, str]]
) -> None:
    current = cluster(
        make_spec(name="there"), make_spec(name="both"), routes=(route("r", "there"), route("both", "there"))
    )
    assert [fault.path for fault in faults(wanted, current, prune=prune)] == expected


@st.composite
def clusters(draw: st.DrawFn) -> ClusterSpec:
    """Clusters without faults of their own."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    specs = [
        make_spec(name=name, replicas=draw(st.integers(0, 2)), options=EngineOptions(slots=draw(st.integers(1, 2))))
        for name in names
    ]
    leads = st.lists(st.sampled_from(names), min_size=1, unique=True) if names else st.nothing()
    routes = draw(st.dictionaries(st.sampled_from(("r", "s")), leads)) if names else {}
    return cluster(*specs, routes=tuple(route(name, *targets) for name, targets in routes.items()))


@given(wanted=clusters(), current=clusters())
def test_with_prune_the_cluster_is_then_what_the_file_says(wanted: ClusterSpec, current: ClusterSpec) -> None:
    assert faults(wanted, current, prune=True) == []
    after = taken(plan(wanted, current, prune=True), wanted, current)
    assert {spec.name: spec for spec in after.deployments} == {spec.name: spec for spec in wanted.deployments}
    assert {spec.name: spec for spec in after.routes} == {spec.name: spec for spec in wanted.routes}
    assert {step.action for step in plan(wanted, after, prune=True)} <= {Action.KEEP}


@given(wanted=clusters(), current=clusters())
def test_without_prune_nothing_is_lost(wanted: ClusterSpec, current: ClusterSpec) -> None:
    after = taken(plan(wanted, current), wanted, current)
    there = {spec.name: spec for spec in after.deployments}
    assert there == {spec.name: spec for spec in (*current.deployments, *wanted.deployments)}
    assert {step.action for step in plan(wanted, after)} <= {Action.KEEP, Action.LEAVE}
