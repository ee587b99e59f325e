"""`/api/v1/estimates`: read from the network by the API itself, from disks by the workers."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api import inspection_calls
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.estimate import estimate
from stoker.domain.estimation.types import MemoryEstimate
from stoker.domain.keys import Role
from stoker.domain.models import ModelSource
from stoker.local_models import inspect_here
from stoker.remote_models import remote_models
from stoker.storage.engine import Database
from tests.api.serving import Api, serving_api
from tests.api.test_deployments import problem_of
from tests.builders import write_tiny_llama
from tests.cluster import Cluster
from tests.fakes.hub import FakeHub
from tests.fakes.web import FakeWeb
from tests.stoker.test_local_models import write_projector

pytestmark = pytest.mark.anyio

PATH = "/api/v1/estimates"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's repositories, which are a web server's files too."""
    root = tmp_path_factory.mktemp("hub")
    (root / "acme/tiny").mkdir(parents=True)
    write_tiny_llama(root / "acme/tiny/tiny-F16.gguf", layers=3)
    return root


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[FakeHub]:
    with FakeHub(folder) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture(scope="module")
async def reading_api(database: Database, hub: FakeHub) -> AsyncIterator[Api]:
    """An API without Temporal that reads from that hub, and from private addresses."""
    models = remote_models(None, endpoint=hub.url, allow_private_urls=True)
    async with serving_api(database, models=models) as running:
        yield running


async def test_a_hub_model(reading_api: Api, hub: FakeHub, folder: Path) -> None:
    options = {"context_length": 1024, "slots": 2, "micro_batch": 128}
    response = await reading_api.admin.post(PATH, json={"model": "hf:acme/tiny", "options": options, "devices": 2})
    assert response.status_code == 200, response.text
    read = response.json()
    path = folder / "acme/tiny/tiny-F16.gguf"
    stored = hub.files("acme/tiny")
    assert stored is not None
    assert read["model"] == {
        "source": "hf:acme/tiny",
        "revision": hub.commit("acme/tiny"),
        "name": "Tiny",
        "architecture": "llama",
        "file_type": "F16",
        "parameters": read["model"]["parameters"],
        "context_length": 2048,
        "block_count": 3,
        "size_bytes": path.stat().st_size,
        "files": [
            {"path": path.name, "size_bytes": path.stat().st_size, "sha256": stored["tiny-F16.gguf"].sha256},
        ],
    }
    _, profile = inspect_here(ModelSource.parse(f"file:{path}"))
    expected = estimate(profile, EngineOptions(**options), (2, 2))
    assert isinstance(expected, MemoryEstimate)
    assert [device["total"] for device in read["devices"]] == [device.total for device in expected.devices]
    assert [device["kv"] for device in read["devices"]] == [device.cache for device in expected.devices]
    assert (read["host"]["total"], read["host"]["output"]) == (expected.host.total, expected.host.output)
    assert read["caution"] == ""
    assert read["options"]["context_length"] == 1024
    assert {saving["option"] for saving in read["savings"]} >= {"context_length", "slots"}


async def test_a_web_address(reading_api: Api, folder: Path) -> None:
    with FakeWeb(folder) as web:
        source = f"{web.url}/acme/tiny/tiny-F16.gguf"
        read = (await reading_api.admin.post(PATH, json={"model": source})).json()
        assert (read["model"]["source"], read["model"]["revision"]) == (source, None)
        assert [device["layers"] for device in read["devices"]] == [4]
        gone = await reading_api.admin.post(PATH, json={"model": f"{web.url}/none.gguf"})
        assert "there is no file" in problem_of(gone, 422, "file_not_found").detail


async def test_what_stands_beside_the_model(reading_api: Api, folder: Path) -> None:
    write_projector(folder / "acme/tiny/mmproj-F16.gguf")

    async def first_device(**beside: str) -> dict[str, Any]:
        response = await reading_api.admin.post(PATH, json={"model": "hf:acme/tiny:F16", **beside})
        device: dict[str, Any] = response.raise_for_status().json()["devices"][0]
        return device

    alone = await first_device()
    seeing = await first_device(projector="hf:acme/tiny/mmproj-F16.gguf")
    assert seeing["weights"] == alone["weights"] + 2 * 64 * 64
    assert (await first_device(draft="hf:acme/tiny:F16"))["kv"] == 2 * alone["kv"]
    body = {"model": "hf:acme/tiny:F16", "projector": "file:/m.gguf"}
    problem = problem_of(await reading_api.admin.post(PATH, json=body), 422, "invalid_request")
    assert problem.detail.startswith("projector: file:/m.gguf lies on a disk")


async def test_the_private_network_is_not_for_the_api_to_read(lone_api: Api) -> None:
    for source in ("https://169.254.169.254/m.gguf", "https://127.0.0.1/m.gguf", "http://example.org/m.gguf"):
        problem = problem_of(await lone_api.admin.post(PATH, json={"model": source}), 422, "url_not_allowed")
        assert "STOKER_URLS__ALLOW_PRIVATE" in problem.detail


async def test_a_web_address_cannot_be_deployed_yet(lone_api: Api) -> None:
    body = {"name": "web", "model": "https://example.org/m.gguf"}
    problem = problem_of(await lone_api.admin.post("/api/v1/deployments", json=body), 422, "invalid_request")
    (error,) = problem.errors
    assert error.field == "model"
    assert "can only be estimated yet" in error.message


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "model", "required"),
        ({"model": "tiny"}, "model", "no model source"),
        ({"model": "hf:repo"}, "model", "ORG/REPO"),
        ({"model": "hf:a/b", "devices": 16}, "devices", "less than or equal to 15"),
        ({"model": "hf:a/b", "devices": -1}, "devices", "greater than or equal to 0"),
        ({"model": "hf:a/b", "split": []}, "split", "at least 1 item"),
        ({"model": "hf:a/b", "split": [1] * 16}, "split", "at most 15 items"),
        ({"model": "hf:a/b", "split": [1, 0]}, "split.1", "greater than or equal to 1"),
        ({"model": "hf:a/b", "split": [1, 1], "devices": 3}, "body", "devices is 3 and split names 2"),
        ({"model": "hf:a/b", "options": {"slots": 0}}, "options.slots", "greater than or equal to 1"),
        ({"model": "hf:a/b", "options": {"cache_type_v": "q9"}}, "options.cache_type_v", "'f32', 'f16'"),
        ({"model": "hf:a/b", "gpus": 2}, "gpus", "Extra inputs"),
    ],
)
async def test_a_wrong_question(lone_api: Api, body: dict[str, Any], field: str, words: str) -> None:
    problem = problem_of(await lone_api.admin.post(PATH, json=body), 422, "invalid_request")
    (error,) = problem.errors
    assert error.field == field
    assert words in error.message


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"model": "hf:acme/none"}, "model_not_found", "no model acme/none"),
        ({"model": "hf:acme/tiny:Q4_0"}, "file_not_found", "there is tiny-F16.gguf"),
        ({"model": "hf:acme/tiny", "split": [2, 1]}, "unsupported_model", "places 3 layers, and the model has 4"),
        ({"model": "hf:acme/tiny", "options": {"context_length": 4096}}, "unsupported_model", "2048 tokens"),
    ],
)
async def test_what_cannot_be_estimated(reading_api: Api, body: dict[str, Any], code: str, words: str) -> None:
    problem = problem_of(await reading_api.admin.post(PATH, json=body), 422, code)
    assert words in problem.detail


async def test_a_hub_that_is_away(lone_api: Api) -> None:
    response = await lone_api.admin.post(PATH, json={"model": "hf:acme/tiny"})
    problem_of(response, 503, "hub_unavailable")
    assert response.headers["retry-after"] == "5"


async def test_only_for_administrators(lone_api: Api) -> None:
    _, key = lone_api.key(Role.USER)
    await lone_api.context.keyring.refresh()
    headers = {"authorization": f"Bearer {key}"}
    problem_of(await lone_api.anyone.post(PATH, json={"model": "hf:a/b"}, headers=headers), 403, "forbidden")
    problem_of(await lone_api.anyone.post(PATH, json={"model": "hf:a/b"}), 401, "unauthorized")


# --- files on the workers ------------------------------------------------------------------------------------------


async def test_a_file_on_a_worker(api: Api, tiny_model: ModelSource) -> None:
    read = (await api.admin.post(PATH, json={"model": str(tiny_model)})).raise_for_status().json()
    assert read["model"]["source"] == str(tiny_model)
    assert read["model"]["size_bytes"] == Path(tiny_model.path).stat().st_size
    assert [device["layers"] for device in read["devices"]] == [3]


async def test_a_file_that_no_worker_has(api: Api, cluster: Cluster) -> None:
    source = f"file:{cluster.folder}/none.gguf"
    problem = problem_of(await api.admin.post(PATH, json={"model": source}), 422, "file_not_found")
    assert problem.detail == f"no such file: {cluster.folder}/none.gguf (looked on w1)"


async def test_a_file_that_workers_may_not_serve(api: Api) -> None:
    problem = problem_of(await api.admin.post(PATH, json={"model": "file:/etc/x.gguf"}), 422, "path_not_allowed")
    assert "--model-dir" in problem.detail


async def test_a_file_that_is_no_model(api: Api, cluster: Cluster) -> None:
    (cluster.folder / "page.gguf").write_text("<html>")
    problem_of(await api.admin.post(PATH, json={"model": f"file:{cluster.folder}/page.gguf"}), 422, "not_gguf")


async def test_a_control_plane_that_does_not_answer(
    api: Api, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_calls, "ANSWER_WITHIN", timedelta(seconds=1))
    monkeypatch.setattr(inspection_calls, "CONTROL_QUEUE", "nobody takes this work")
    response = await api.admin.post(PATH, json={"model": str(tiny_model)})
    assert "was not read within 1 s" in problem_of(response, 503, "control_plane_unavailable").detail


async def test_without_temporal(lone_api: Api, tiny_model: ModelSource) -> None:
    response = await lone_api.admin.post(PATH, json={"model": str(tiny_model)})
    assert "Temporal does not answer" in problem_of(response, 503, "temporal_unavailable").detail
