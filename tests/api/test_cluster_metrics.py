"""The cluster's metrics: each figure, its series, and what becomes of it when a part is away."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from api.cluster_metrics import ClusterMetrics
from api.cluster_view import ClusterView, Seen
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.fleet import Fleet, Host
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind, WorkerState
from stoker.storage.engine import Database
from stoker.storage.figures import Figures
from tests.api.serving import Api, away
from tests.api.test_instances import put
from tests.builders import make_device, make_files, make_profile, make_spec, make_worker
from tests.cluster import eventually_async
from tests.fakes.api import CREATED_AT, make_group, make_instance

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def deployment(name: str, replicas: int = 1) -> DeploymentStatus:
    """One that is wanted."""
    return DeploymentStatus(
        spec=make_spec(name=name, replicas=replicas),
        generation=1,
        profile=make_profile(),
        files=make_files(),
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
    )


def series(
    name: str,
    *,
    deployments: tuple[DeploymentStatus, ...] = (),
    instances: tuple[InstanceStatus, ...] = (),
    seen: Seen | None = None,
) -> dict[str, float]:
    """The series of one metric that are not 0, by their labels' values in the labels' order."""
    registry = CollectorRegistry()
    registry.register(ClusterMetrics(lambda: deployments, lambda: instances, lambda: seen or Seen(), lambda: NOW))
    found = {
        " ".join(value for _, value in sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }
    return {labels: value for labels, value in found.items() if value}


def test_deployments_by_state_and_how_many_of_each_run() -> None:
    given = {
        "deployments": (deployment("llama", 2), deployment("big"), deployment("off", 0)),
        "instances": (
            make_instance(instance_id="llama-0"),
            make_instance(InstanceState.BACKOFF, instance_id="llama-1", incarnation=4),
            make_instance(InstanceState.PENDING, instance_id="big-0", deployment="big"),
        ),
    }
    assert series("stoker_deployments", **given) == {"progressing": 1, "pending": 1, "stopped": 1}
    assert series("stoker_deployment_state", **given) == {"llama progressing": 1, "big pending": 1, "off stopped": 1}
    assert series("stoker_deployment_replicas_wanted", **given) == {"llama": 2, "big": 1}
    assert series("stoker_deployment_replicas_running", **given) == {"llama": 1}


def test_instances_by_state_by_tier_and_their_restarts() -> None:
    instances = (
        make_instance(instance_id="llama-0"),
        make_instance(instance_id="llama-1", incarnation=3),
        make_instance(instance_id="wide-0", deployment="wide", placement=make_group()),
        make_instance(InstanceState.PENDING, instance_id="wide-1", deployment="wide", incarnation=2),
    )
    assert series("stoker_instances", instances=instances) == {"running": 3, "pending": 1}
    assert series("stoker_instances_placed", instances=instances) == {"one_device": 2, "several_workers": 1}
    restarts = series("stoker_instance_restarts_total", instances=instances)
    assert restarts == {"llama llama-1": 2, "wide wide-1": 1}


def test_workers_their_memory_and_their_claims() -> None:
    gpu = make_device(total=24 * GIB, reserve=1 * GIB, used=9 * GIB)
    ready = make_worker(name="w1", devices=(gpu, make_device(kind=DeviceKind.CPU)))
    silent = make_worker(name="w2", devices=(), state=WorkerState.UNREACHABLE)
    seen = Seen(
        fleet=Fleet({"w1": Host(ready, {"gpu0": 8 * GIB}), "w2": Host(silent, {})}),
        figures=Figures(
            reported_at={"w1": NOW - timedelta(seconds=3), "w2": NOW - timedelta(seconds=300)},
            held={"w1": 1},
            ending={"gone": 2},
            pending_since={"big": NOW - timedelta(seconds=90)},
        ),
    )
    assert series("stoker_workers", seen=seen) == {"ready": 1, "unreachable": 1}
    assert series("stoker_worker_report_age_seconds", seen=seen) == {"w1": 3, "w2": 300}
    assert series("stoker_claims", seen=seen) == {"held w1": 1, "ending gone": 2}
    assert series("stoker_pending_seconds", seen=seen) == {"big": 90}
    memory = {
        kind: series(f"stoker_device_memory_{kind}_bytes", seen=seen).get("gpu0 w1", 0) / GIB
        for kind in ("size", "reserved", "claimed", "used", "free")
    }
    assert memory == {"size": 24, "reserved": 1, "claimed": 8, "used": 9, "free": 14}
    assert series("stoker_device_memory_free_bytes", seen=seen)["cpu w1"] == 64 * GIB


def test_states_that_nothing_is_in_are_shown_as_zero() -> None:
    registry = CollectorRegistry()
    registry.register(ClusterMetrics(lambda: (), lambda: (), Seen, lambda: NOW))
    for name, label, value in (
        ("stoker_deployments", "state", "failed"),
        ("stoker_instances", "state", "running"),
        ("stoker_workers", "state", "unreachable"),
    ):
        assert registry.get_sample_value(name, {label: value}) == 0


async def shown(api: Api) -> dict[str, dict[str, float]]:
    """`/metrics` right after a look: by metric, then by labels."""
    await api.context.routes.refresh()
    await api.context.cluster.look()
    text = (await api.anyone.get("/metrics")).raise_for_status().text
    return {
        family.name: {" ".join(value for _, value in sorted(one.labels.items())): one.value for one in family.samples}
        for family in text_string_to_metric_families(text)
    }


@pytest.mark.anyio
async def test_a_scrape_shows_the_rows_and_nothing_of_a_database_that_is_away(
    lone_api: Api, database: Database
) -> None:
    put(database, "llama-metric", make_worker(name="box-1"))
    found = await shown(lone_api)
    assert found["stoker_part_up"] == {"database": 1, "temporal": 0, "control_plane": 0}
    assert found["stoker_instances"]["running"] == 1
    assert found["stoker_workers"]["ready"] == 1
    assert found["stoker_device_memory_size_bytes"]["gpu0 box-1"] == 24 * GIB
    assert found["stoker_worker_report_age_seconds"]["box-1"] < 60
    with away(database):
        found = await shown(lone_api)
        assert found["stoker_part_up"]["database"] == 0
        assert found["stoker_instances"]["running"] == 1, "it still answers, by the table in memory"
        assert found["stoker_worker_report_age_seconds"] == {}
        assert found["stoker_device_memory_size_bytes"] == {}


@pytest.mark.anyio
async def test_with_everything_all_parts_are_up(api: Api) -> None:
    assert (await shown(api))["stoker_part_up"] == {"database": 1, "temporal": 1, "control_plane": 1}


@pytest.mark.anyio
async def test_the_view_outlives_a_mistake_and_shows_nothing_old_meanwhile(
    lone_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.cluster_view.LOOK_EVERY_SECONDS", 0.01)
    context = lone_api.context
    view = ClusterView(context.database, context.ledger, context.temporal)
    task = asyncio.create_task(view.run())

    async def knows_parts(known: bool) -> bool:
        return bool(view.current().parts) is known

    await eventually_async(lambda: knows_parts(True), "a look")
    with monkeypatch.context() as broken:
        broken.setattr(view, "_read", lambda: 1 / 0)
        await eventually_async(lambda: knows_parts(False), "nothing is known")
    await eventually_async(lambda: knows_parts(True), "it looks again")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
