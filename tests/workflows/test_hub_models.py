"""Models from a hub: inspected by their header, downloaded to the host that was chosen, and cancelled at once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from api import deployment_calls
from api.errors import ProblemError
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from tests.builders import make_spec, write_tiny_llama
from tests.cluster import Cluster, eventually, temporal
from tests.fakes.hub import FakeHub
from tests.workflows.conftest import cpu_host, record_histories
from workflows.types import Wanted

pytestmark = pytest.mark.anyio

SOURCE = ModelSource.parse("hf:acme/tiny-GGUF:Q8_0")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one repository, of one model in shards."""
    folder = tmp_path / "repositories" / "acme" / "tiny-GGUF"
    folder.mkdir(parents=True)
    write_tiny_llama(folder / "tiny-Q8_0.gguf", max_tensors_per_file=8)
    with FakeHub(tmp_path / "repositories") as running:
        yield running


@pytest.fixture
async def hub_cluster(hub: FakeHub, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """A cluster that takes models from the hub."""
    async with temporal() as environment:
        async with Cluster(environment.client, tmp_path, hub=hub.url) as running:
            await running.add_host(cpu_host("w1"))
            yield running
        await record_histories(environment.client, request.node.originalname)


async def test_a_sharded_model_is_downloaded_and_runs(hub_cluster: Cluster, hub: FakeHub) -> None:
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE, replicas=2))
    await hub_cluster.instances_in("tiny", [InstanceState.RUNNING] * 2)
    (deployment,) = hub_cluster.deployments()
    assert len(deployment.files.files) > 1
    assert deployment.files.revision == hub.commit("acme/tiny-GGUF")
    for file in deployment.files.files:
        whole = [r for r in hub.content_requests() if r.path.endswith(file.sha256) and r.sent == file.size]
        assert len(whole) <= 1, "two replicas on one host share one download"


async def test_a_deletion_ends_a_download_at_once(hub_cluster: Cluster, hub: FakeHub) -> None:
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE, replicas=0))
    hub.faults.pause_at = 1000
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE))
    await hub_cluster.instances_in("tiny", [InstanceState.DOWNLOADING])
    await hub_cluster.delete("tiny")
    await hub_cluster.gone("tiny")
    await eventually(lambda: hub_cluster.claims() == (), hub_cluster.claims)


async def test_a_corrupt_download_fails_and_says_so(hub_cluster: Cluster, hub: FakeHub) -> None:
    hub.faults.corrupt = True
    await hub_cluster.apply(make_spec(name="tiny", model=SOURCE))
    (failed,) = await hub_cluster.instances_in("tiny", [InstanceState.FAILED])
    assert "sha256" in failed.message
    await eventually(lambda: hub_cluster.claims() == (), hub_cluster.claims)


async def test_what_was_wanted_before_is_made_of_the_same_files(hub_cluster: Cluster, hub: FakeHub) -> None:
    before = make_spec(name="tiny", model=SOURCE, replicas=0)
    await hub_cluster.apply(before)
    (first,) = hub_cluster.deployments()
    other = ModelSource.parse(f"hf:acme/tiny-GGUF/{first.files.files[0].path}")
    await hub_cluster.apply(before.model_copy(update={"model": other}))
    folder = hub.root / "acme" / "tiny-GGUF"
    (folder / "README.md").write_text("another commit")
    hub.forget()
    known = Wanted(spec=before, profile=first.profile, files=first.files)
    await deployment_calls.apply(hub_cluster.client, before, known=known)
    (again,) = hub_cluster.deployments()
    assert (again.generation, again.files) == (3, first.files)
    assert again.files.revision != hub.commit("acme/tiny-GGUF")
    assert hub.requests == [], "nothing is read anew"

    newest = first.files.model_copy(update={"revision": "b" * 40})
    for generation, files in ((4, newest), (5, first.files), (5, first.files)):  # the same spec throughout
        asked = known.model_copy(update={"files": files})
        await deployment_calls.apply(hub_cluster.client, before, known=asked)
        (now,) = hub_cluster.deployments()
        assert (now.generation, now.files) == (generation, files)


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("hf:acme/nothing", "model_not_found", "acme/nothing"),
        ("hf:acme/tiny-GGUF:Q4_K_M", "file_not_found", "there is tiny-Q8_0"),
        ("hf:acme/tiny-GGUF/other.gguf", "file_not_found", "other.gguf"),
    ],
)
async def test_what_the_hub_does_not_have_is_refused(hub_cluster: Cluster, source: str, code: str, words: str) -> None:
    with pytest.raises(ProblemError, match=words) as refused:
        await hub_cluster.apply(make_spec(name="none", model=ModelSource.parse(source)))
    assert refused.value.code == code
    assert hub_cluster.deployments() == ()
