"""The stand-in answers what the hub's own library asks: it must not be this project's code alone that it pleases."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tests.fakes.hub import FakeHub

TOKEN = "hf_of_this_test"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name, content in {
        "tiny/README.md": b"# Tiny",
        "tiny/deep/a.gguf": bytes(100_000),
        "gated/b.gguf": b"b",
    }.items():
        path = tmp_path / "hub/acme" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with FakeHub(tmp_path / "hub", token=TOKEN, gated=("acme/gated",)) as hub:
        yield hub


def test_a_whole_repository(fake: FakeHub, tmp_path: Path) -> None:
    folder = Path(snapshot_download("acme/tiny", endpoint=fake.url, cache_dir=tmp_path / "cache"))
    assert folder.name == fake.commit("acme/tiny")
    assert (folder / "README.md").read_bytes() == b"# Tiny"
    assert (folder / "deep/a.gguf").read_bytes() == bytes(100_000)


def test_listings(fake: FakeHub) -> None:
    api = HfApi(endpoint=fake.url)
    (entry,) = api.get_paths_info("acme/tiny", ["deep/a.gguf", "none"])
    assert [entry.path for entry in api.list_repo_tree("acme/tiny", recursive=True)] == ["README.md", "deep/a.gguf"]
    assert [entry.path for entry in api.list_repo_tree("acme/tiny", "deep")] == [entry.path] == ["deep/a.gguf"]
    assert api.file_exists("acme/tiny", "README.md")
    assert not api.file_exists("acme/tiny", "none")


def test_errors(fake: FakeHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=fake.url)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/tiny", revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("acme/tiny", "none", endpoint=fake.url, cache_dir=tmp_path)
    with pytest.raises(GatedRepoError):
        hf_hub_download("acme/gated", "b.gguf", endpoint=fake.url, cache_dir=tmp_path)
    assert hf_hub_download("acme/gated", "b.gguf", endpoint=fake.url, cache_dir=tmp_path, token=TOKEN)


def test_the_command_prints_its_url(fake: FakeHub) -> None:
    command = [sys.executable, "-m", "tests.fakes.hub", "--root", str(fake.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert HfApi(endpoint=url).model_info("acme/tiny").sha == fake.commit("acme/tiny")
        server.terminate()
    assert server.returncode == 0
