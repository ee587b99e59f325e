"""The API in front of a real cluster (`api`), and one that stands alone, without Temporal (`lone_api`)."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stoker.domain.models import ModelSource
from stoker.domain.units import MIB
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import Api, serving_api
from tests.builders import write_tiny_llama
from tests.cluster import Cluster, temporal
from tests.workflows.conftest import cpu_host


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Control plane and one host, `w1`, with room for one tiny model; for all tests of a module."""
    async with (
        temporal() as environment,
        Cluster(environment.client, tmp_path_factory.mktemp("cluster")) as running,
    ):
        await running.add_host(cpu_host("w1", total=700 * MIB))
        yield running


@pytest.fixture(scope="module")
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    """The API of that cluster."""
    async with serving_api(cluster.database, cluster.client) as running:
        yield running


@pytest.fixture(scope="module")
def tiny_model(cluster: Cluster) -> ModelSource:
    """A model that the host can read and that the engine loads in a blink."""
    return ModelSource.parse(f"file:{write_tiny_llama(cluster.folder / 'tiny.gguf')}")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database with this version's tables."""
    opened = Database(f"sqlite:///{tmp_path / 'stoker.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
async def lone_api(database: Database) -> AsyncIterator[Api]:
    """The API on an empty database. Temporal is away."""
    async with serving_api(database) as running:
        yield running
