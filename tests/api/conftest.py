"""The API in front of a real cluster (`api`), and one that stands alone, without Temporal (`lone_api`)."""

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from api import outbox
from stoker.domain.models import ModelSource
from stoker.domain.units import MIB
from stoker.secrets import agent_key
from stoker.storage.engine import Database
from stoker.storage.migrate import migrate
from tests.api.serving import Api, serving, serving_api
from tests.builders import write_tiny_llama
from tests.cluster import ENGINE_SECRET, Cluster, temporal
from tests.workflows.conftest import cpu_host
from worker_agent.log_server import log_app


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Control plane and one host, `w1`, with room for one tiny model and its logs; for all tests of a module."""
    async with (
        temporal() as environment,
        Cluster(environment.client, tmp_path_factory.mktemp("cluster")) as running,
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host = cpu_host("w1", total=700 * MIB).model_copy(update={"agent_port": listener.getsockname()[1]})
            supervisor = await running.add_host(host)
            async with serving(log_app(supervisor, lambda: agent_key(ENGINE_SECRET)), listener):
                yield running


@pytest.fixture(scope="module")
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    """The API of that cluster."""
    async with serving_api(cluster.database, cluster.client) as running:
        yield running


@pytest.fixture(scope="module", params=["few requests in work", "many requests in work"])
def company(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether answers are written at once, or wait for the end of the loop's turn, as beside many others."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "many requests in work":
            patch.setattr(outbox, "FEW", -1)
        yield


@pytest.fixture(scope="module")
def tiny_model(cluster: Cluster) -> ModelSource:
    """A model that the host can read and that the engine loads in a blink."""
    return ModelSource.parse(f"file:{write_tiny_llama(cluster.folder / 'tiny.gguf')}")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with this version's tables, for all tests of a module."""
    opened = Database(f"sqlite:///{tmp_path_factory.mktemp('database') / 'stoker.db'}")
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
async def lone_api(database: Database) -> AsyncIterator[Api]:
    """The API on that database. Temporal is away."""
    async with serving_api(database) as running:
        yield running
