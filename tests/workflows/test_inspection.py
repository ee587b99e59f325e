"""Looks at files on the workers' disks that deploy nothing."""

from pathlib import Path

import pytest

from api.errors import ProblemError
from api.inspection_calls import inspect_file
from stoker.domain.models import ModelSource
from tests.builders import write_tiny_llama
from tests.cluster import Cluster
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio


async def test_whoever_has_the_file_answers(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.add_host(cpu_host("w2"))
    found = await inspect_file(cluster.client, tiny_model)
    assert found.files.found_on == ("w1", "w2")
    assert found.files.size == Path(tiny_model.path).stat().st_size
    assert found.profile.block_count == 2
    assert cluster.deployments() == ()
    assert cluster.claims() == ()


async def test_shards_are_found(cluster: Cluster, tmp_path: Path) -> None:
    await cluster.add_host(cpu_host("w1"))
    first = write_tiny_llama(tmp_path / "split.gguf", max_tensors_per_file=8)
    found = await inspect_file(cluster.client, ModelSource.parse(f"file:{first}"))
    assert len(found.files.files) == 3


async def test_nobody_is_there(cluster: Cluster, tiny_model: ModelSource) -> None:
    with pytest.raises(ProblemError, match="no worker that may be used is there to read file:") as raised:
        await inspect_file(cluster.client, tiny_model)
    assert raised.value.code == "no_worker"


async def test_a_worker_that_is_gone_without_a_word(cluster: Cluster, tiny_model: ModelSource) -> None:
    await cluster.add_host(cpu_host("w1"))
    await cluster.stop_agent("w1")
    with pytest.raises(ProblemError, match="a worker that may have the model does not answer") as raised:
        await inspect_file(cluster.client, tiny_model)
    assert raised.value.code == "worker_unreachable"
