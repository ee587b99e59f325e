"""One cluster a test, and the histories of what happened in it."""

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.statuses import InstanceStatus
from stoker.domain.units import GIB
from stoker.domain.workers import Device, DeviceKind, Engine, EngineKind, Worker
from tests.builders import make_spec, write_tiny_llama
from tests.cluster import Cluster, temporal

HISTORIES = Path(__file__).parent.parent / "histories"


def cpu_host(name: str, total: int = 8 * GIB) -> Worker:
    """A host that offers `total` bytes of RAM and nothing else."""
    return Worker(
        name=name,
        devices=(Device(id="cpu", kind=DeviceKind.CPU, name="test CPU", total=total),),
        engine=Engine(kind=EngineKind.BUNDLED, version="test"),
    )


async def join_hosts(cluster: Cluster, *names: str) -> dict[str, Worker]:
    """Hosts of 8 GiB with agents that take work, by name."""
    hosts = {name: cpu_host(name) for name in names}
    for host in hosts.values():
        await cluster.add_host(host)
    return hosts


async def run_one(cluster: Cluster, model: ModelSource) -> InstanceStatus:
    """The only instance of the deployment `tiny`, once it runs."""
    await cluster.apply(make_spec(name="tiny", model=model))
    (instance,) = await cluster.instances_in("tiny", [InstanceState.RUNNING])
    return instance


def worker_of(instance: InstanceStatus) -> str:
    """Where its main server has its place."""
    assert instance.placement is not None
    return instance.placement.worker


@pytest.fixture
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Control plane and database; hosts are added by the test. RECORD_HISTORIES=1 keeps what happened for replay."""
    async with temporal() as environment:
        async with Cluster(environment.client, tmp_path) as running:
            yield running
        await record_histories(environment.client, request.node.originalname)


@pytest.fixture
def tiny_model(tmp_path: Path) -> ModelSource:
    """A model of some hundred kilobytes that the real engine loads in a blink."""
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    return ModelSource.parse(f"file:{path}")


async def record_histories(client: Client, name: str) -> None:
    """Keeps every workflow's history under the test's name, if RECORD_HISTORIES asks for it."""
    if not os.environ.get("RECORD_HISTORIES"):
        return
    HISTORIES.mkdir(exist_ok=True)
    async for execution in client.list_workflows():
        history = await client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        kind = f"{execution.workflow_type}-{execution.status.name if execution.status else 'UNKNOWN'}".lower()
        number = len(list(HISTORIES.glob(f"{name}.{kind}.*.json")))
        path = HISTORIES / f"{name}.{kind}.{number}.json"
        text = json.dumps({"id": execution.id, "history": json.loads(history.to_json())})
        for folder in (
            *sorted(sys.path, key=len, reverse=True),
            sys.prefix,
        ):  # stack traces name this machine's folders
            text = text.replace(f"{folder}/", "") if folder else text
        path.write_text(text + "\n")
