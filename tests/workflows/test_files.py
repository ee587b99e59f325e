"""Models on hosts' disks: taken away by an order that comes back with an answer, and looked for on other workers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from activities.types import FetchInput
from api.errors import ProblemError
from api.eviction_calls import evict_model
from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.files import Peer
from stoker.domain.models import ModelSource
from stoker.storage.workers import Workers
from tests.builders import make_spec, write_tiny_llama
from tests.cluster import Cluster, temporal
from tests.fakes.hub import FakeHub
from tests.workflows.conftest import cpu_host, record_histories

pytestmark = pytest.mark.anyio

SOURCE = ModelSource.parse("hf:acme/tiny-GGUF:Q8_0")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one model."""
    folder = tmp_path / "repositories" / "acme" / "tiny-GGUF"
    folder.mkdir(parents=True)
    write_tiny_llama(folder / "tiny-Q8_0.gguf")
    with FakeHub(tmp_path / "repositories") as running:
        yield running


@pytest.fixture
async def hub_cluster(hub: FakeHub, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """A cluster that takes models from the hub, with one host."""
    async with temporal() as environment:
        async with Cluster(environment.client, tmp_path, hub=hub.url) as running:
            await running.add_host(cpu_host("w1"))
            yield running
        await record_histories(environment.client, request.node.originalname)


async def fetches(cluster: Cluster) -> list[FetchInput]:
    """What hosts were told to fetch."""
    found = []
    async for execution in cluster.client.list_workflows("WorkflowType = 'Instance'"):
        handle = cluster.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == "fetch_model":
                payloads = cluster.client.data_converter.payload_converter.from_payloads(
                    scheduled.input.payloads, [FetchInput]
                )
                found += payloads
    return found


async def test_a_model_goes_when_nobody_uses_it_and_not_before(hub_cluster: Cluster) -> None:
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE))
    await hub_cluster.instances_in("tiny", [InstanceState.RUNNING])
    (deployment,) = hub_cluster.deployments()
    key, size = deployment.files.key, deployment.files.size
    with pytest.raises(ProblemError, match="is in use on this worker") as used:
        await evict_model(hub_cluster.client, "w1", key, force=True)
    assert used.value.code == "file_in_use"
    await hub_cluster.delete("tiny")
    await hub_cluster.gone("tiny")
    assert await evict_model(hub_cluster.client, "w1", key, force=False) == size
    with pytest.raises(ProblemError, match="has no model") as gone:
        await evict_model(hub_cluster.client, "w1", key, force=False)
    assert gone.value.code == "not_found"


async def test_a_host_that_is_away_is_said_to_be(hub_cluster: Cluster) -> None:
    await hub_cluster.stop_agent("w1")
    with pytest.raises(ProblemError, match="the agent of w1 does not answer") as away:
        await evict_model(hub_cluster.client, "w1", "hf:a/b@c/d.gguf", force=False)
    assert away.value.code == "worker_unreachable"


async def test_who_fetches_is_told_who_has_it_and_what_must_stay(hub_cluster: Cluster) -> None:
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE, replicas=0))
    (deployment,) = hub_cluster.deployments()
    key = deployment.files.key
    holder = cpu_host("w2").model_copy(update={"holds": (key,), "mesh_port": 1, "address": "127.0.0.9"})
    with hub_cluster.database.write() as session:
        Workers(session, utc_now()).join(holder, credential_hash="", engine_secret="s")
        Workers(session, utc_now()).cordon("w2", True)
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE))
    await hub_cluster.instances_in("tiny", [InstanceState.RUNNING])
    (fetch,) = await fetches(hub_cluster)
    assert fetch.peers == (Peer(worker="w2", address="127.0.0.9", mesh_port=1),)
    assert fetch.keep == (key,)
