"""Files on this host: which may be served, and what is said of the others."""

import os
import shutil
from pathlib import Path

import pytest

from activities.ports import DownloadProgress, ModelSourceError, ModelStore
from stoker.domain.models import ModelFile, ModelFiles, ModelSource, SourceKind
from tests.builders import write_tiny_llama
from worker_agent.downloads import HubDownloads
from worker_agent.model_store import HostModelStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def store(models: Path, tmp_path: Path) -> ModelStore:
    return HostModelStore([models], HubDownloads(tmp_path / "cache"))


def sizes(paths: list[str]) -> list[int]:
    return [Path(path).stat().st_size for path in paths]


async def refusal(store: ModelStore, path: Path | str) -> ModelSourceError:
    with pytest.raises(ModelSourceError) as raised:
        await store.inspect(str(path))
    assert not raised.value.retryable
    return raised.value


async def test_a_file_is_read(store: ModelStore, models: Path) -> None:
    path = write_tiny_llama(models / "tiny.gguf", layers=3)
    files, profile = await store.inspect(str(path))
    size = path.stat().st_size
    assert files == ModelFiles(
        source=ModelSource(kind=SourceKind.FILE, path=str(path)), files=(ModelFile(path=str(path), size=size),)
    )
    assert profile.block_count == 3
    assert [progress async for progress in store.fetch(files)] == [DownloadProgress(done=size, total=size)]
    assert store.local_path(files) == str(path)


async def test_all_shards_are_read(store: ModelStore, models: Path) -> None:
    first = write_tiny_llama(models / "tiny.gguf", max_tensors_per_file=8)
    files, profile = await store.inspect(str(first))
    shards = [str(first).replace("-00001-", f"-0000{number}-") for number in (1, 2, 3)]
    assert [file.path for file in files.files] == shards
    assert [file.size for file in files.files] == sizes(shards)
    assert profile.block_count == 2
    assert store.local_path(files) == str(first)


async def test_a_link_inside_the_folder_keeps_its_name(store: ModelStore, models: Path) -> None:
    target = write_tiny_llama(models / "blob.gguf")
    (models / "name.gguf").symlink_to(target)
    files, _ = await store.inspect(str(models / "name.gguf"))
    assert store.local_path(files) == str(models / "name.gguf")


async def test_a_folder_that_is_itself_a_link(models: Path, tmp_path: Path) -> None:
    write_tiny_llama(models / "tiny.gguf")
    (tmp_path / "link").symlink_to(models)
    store = HostModelStore([tmp_path / "link"], HubDownloads(tmp_path / "cache"))
    for folder in (models, tmp_path / "link"):
        files, _ = await store.inspect(str(folder / "tiny.gguf"))
        assert store.local_path(files) == str(folder / "tiny.gguf")


@pytest.mark.parametrize("exists", [True, False])
async def test_outside_the_folders(store: ModelStore, models: Path, tmp_path: Path, exists: bool) -> None:
    if exists:
        write_tiny_llama(tmp_path / "secret.gguf")
    error = await refusal(store, tmp_path / "secret.gguf")
    assert error.code == "path_not_allowed"
    assert f"({models})" in str(error)
    assert "--model-dir" in str(error)


async def test_a_link_that_leads_outside(store: ModelStore, models: Path, tmp_path: Path) -> None:
    (models / "a.gguf").symlink_to(write_tiny_llama(tmp_path / "secret.gguf"))
    assert (await refusal(store, models / "a.gguf")).code == "path_not_allowed"


async def test_a_later_shard_that_leads_outside(store: ModelStore, models: Path, tmp_path: Path) -> None:
    first = write_tiny_llama(models / "tiny.gguf", max_tensors_per_file=8)
    second = models / first.name.replace("-00001-", "-00002-")
    shutil.move(second, tmp_path / "secret.gguf")
    second.symlink_to(tmp_path / "secret.gguf")
    assert (await refusal(store, first)).code == "path_not_allowed"


async def test_no_folder_at_all(models: Path, tmp_path: Path) -> None:
    store = HostModelStore([], HubDownloads(tmp_path / "cache"))
    error = await refusal(store, write_tiny_llama(models / "a.gguf"))
    assert error.code == "path_not_allowed"
    assert "(none)" in str(error)


@pytest.mark.parametrize("path", ["tiny.gguf", "/models/../etc/a.gguf", "/etc/passwd", "/a\0.gguf"])
async def test_paths_that_are_none(store: ModelStore, path: str) -> None:
    assert (await refusal(store, path)).code == "path_not_allowed"


async def test_a_missing_file(store: ModelStore, models: Path) -> None:
    error = await refusal(store, models / "none.gguf")
    assert error.code == "file_not_found"
    assert str(models / "none.gguf") in str(error)


async def test_a_missing_shard_is_named(store: ModelStore, models: Path) -> None:
    first = write_tiny_llama(models / "tiny.gguf", max_tensors_per_file=8)
    missing = models / first.name.replace("-00001-", "-00003-")
    missing.unlink()
    error = await refusal(store, first)
    assert error.code == "file_not_found"
    assert str(missing) in str(error)


async def test_a_later_shard_is_not_the_model(store: ModelStore, models: Path) -> None:
    first = write_tiny_llama(models / "tiny.gguf", max_tensors_per_file=8)
    error = await refusal(store, str(first).replace("-00001-", "-00002-"))
    assert error.code == "file_not_found"
    assert str(first) in str(error)


async def test_a_folder_is_no_file(store: ModelStore, models: Path) -> None:
    (models / "dir.gguf").mkdir()
    error = await refusal(store, models / "dir.gguf")
    assert error.code == "file_not_found"
    assert "not a regular file" in str(error)


async def test_links_in_a_circle(store: ModelStore, models: Path) -> None:
    (models / "a.gguf").symlink_to(models / "b.gguf")
    (models / "b.gguf").symlink_to(models / "a.gguf")
    error = await refusal(store, models / "a.gguf")
    assert error.code == "file_not_found"
    assert "symbolic links" in str(error)


async def test_other_content(store: ModelStore, models: Path) -> None:
    (models / "text.gguf").write_text("this is a text, and no model")
    error = await refusal(store, models / "text.gguf")
    assert error.code == "not_gguf"
    assert str(models / "text.gguf") in str(error)


async def test_a_cut_off_file(store: ModelStore, models: Path) -> None:
    path = write_tiny_llama(models / "tiny.gguf")
    os.truncate(path, path.stat().st_size - 1)
    assert (await refusal(store, path)).code == "truncated_gguf"


@pytest.mark.parametrize(
    ("change", "code"), [("grown", "checksum_mismatch"), ("gone", "file_not_found"), ("moved out", "path_not_allowed")]
)
async def test_a_file_that_changed_since(
    store: ModelStore, models: Path, tmp_path: Path, change: str, code: str
) -> None:
    path = write_tiny_llama(models / "tiny.gguf")
    files, _ = await store.inspect(str(path))
    if change == "grown":
        os.truncate(path, path.stat().st_size + 1)
    else:
        path.rename(tmp_path / "elsewhere.gguf")
        if change == "moved out":
            path.symlink_to(tmp_path / "elsewhere.gguf")
    with pytest.raises(ModelSourceError, match=str(path)) as raised:
        await anext(store.fetch(files))
    assert raised.value.code == code


def test_a_hub_model_is_given_by_its_first_shard_in_the_snapshot(store: ModelStore, tmp_path: Path) -> None:
    names = ("Q4/a-00001-of-00002.gguf", "Q4/a-00002-of-00002.gguf")
    files = ModelFiles(
        source=ModelSource.parse("hf:acme/tiny:Q4"),
        revision="0" * 40,
        files=tuple(ModelFile(path=name, size=1) for name in names),
    )
    expected = tmp_path / "cache/models--acme--tiny/snapshots" / ("0" * 40) / names[0]
    assert store.local_path(files) == str(expected)
