"""The one door to models on the network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.ports import ModelHub
from stoker.domain.models import ModelSource
from stoker.model_source_error import ModelSourceError
from stoker.remote_models import RemoteModels, remote_models
from tests.builders import write_tiny_llama
from tests.fakes.hub import FakeHub
from tests.fakes.web import FakeWeb
from tests.stoker.test_local_models import write_projector

pytestmark = pytest.mark.anyio


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteModels]:
    """Of a hub with acme/tiny, and a web server with the same files."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "root" / "acme" / "tiny"
    folder.mkdir(parents=True)
    write_tiny_llama(folder / "tiny-F16.gguf", layers=3)
    write_projector(folder / "mmproj-F16.gguf")
    with FakeHub(tmp_path / "root") as hub:
        yield remote_models(tmp_path / "cache", endpoint=hub.url, allow_private_urls=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FakeWeb]:
    (tmp_path / "root").mkdir(exist_ok=True)
    with FakeWeb(tmp_path / "root") as running:
        yield running


async def test_hub_and_web_say_the_same(models: RemoteModels, web: FakeWeb, tmp_path: Path) -> None:
    door: ModelHub = models
    of_hub, profile = await door.inspect(ModelSource.parse("hf:acme/tiny"))
    of_web, same = await door.inspect(ModelSource.parse(f"{web.url}/acme/tiny/tiny-F16.gguf"))
    assert profile == same
    assert of_hub.size == of_web.size
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2, "both are kept in one place"


async def test_projectors(models: RemoteModels, web: FakeWeb) -> None:
    for source in ("hf:acme/tiny/mmproj-F16.gguf", f"{web.url}/acme/tiny/mmproj-F16.gguf"):
        assert (await models.inspect_projector(ModelSource.parse(source))).patches == 256
    with pytest.raises(ModelSourceError, match="says clip") as raised:
        await models.inspect_projector(ModelSource.parse("hf:acme/tiny"))
    assert raised.value.code == "invalid_gguf"


async def test_files_are_for_workers(models: RemoteModels) -> None:
    with pytest.raises(ValueError, match="only a worker can read it"):
        await models.inspect(ModelSource.parse("file:/m.gguf"))
