"""What happened to a deployment, as its workflows' histories tell."""

import asyncio

import pytest

from api.deployment_events import deployment_events
from api.errors import TemporalAwayError
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.temporal import connect
from tests.api.serving import NOBODY, Api
from tests.api.test_deployments import create
from tests.cluster import Cluster

pytestmark = pytest.mark.anyio


async def test_an_instances_life_is_told_from_its_start(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "told", replicas=1)
    (instance,) = await cluster.instances_in("told", [InstanceState.RUNNING])
    events = await deployment_events(cluster.client, "told", [instance.instance_id])
    states = [event.state for event in reversed(events) if event.subject == instance.instance_id]
    assert states[:2] == ["placing", "placed"]
    assert states[-1] == "running"
    assert [event.at for event in events] == sorted((event.at for event in events), reverse=True)
    assert [(event.state, event.message) for event in events if not event.subject] == [
        ("wanted", f"generation 1: 1 of {tiny_model}")
    ]

    await create(api, tiny_model, "too-big", replicas=1, options={"context_length": 2048, "slots": 200})
    (waiting,) = await cluster.instances_in("too-big", [InstanceState.PENDING])
    events = await deployment_events(cluster.client, "too-big", [waiting.instance_id])
    async with asyncio.timeout(30):  # the row waits a moment before the history says so
        while events[0].state != "pending":
            await asyncio.sleep(0.05)
            events = await deployment_events(cluster.client, "too-big", [waiting.instance_id])
    assert "Needs" in events[0].message


async def test_what_is_not_there_has_no_events(cluster: Cluster) -> None:
    assert await deployment_events(cluster.client, "nobody", ["nobody-1"]) == []


async def test_temporal_away_is_said() -> None:
    with pytest.raises(TemporalAwayError, match="which does not answer now"):
        await deployment_events(await connect(NOBODY, lazy=True), "told", [])
