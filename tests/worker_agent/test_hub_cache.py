"""Paths in the hub's cache: the layout, and names that would lead out of it."""

from pathlib import Path

import pytest

from stoker.domain.models import ModelFile
from stoker.domain.units import TIB
from worker_agent.hub_cache import CachedRepo, free_space

COMMIT, SHA256 = "0123456789" * 4, "ab" * 32


def test_the_layout(tmp_path: Path) -> None:
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    repo = tmp_path / "models--acme--tiny"
    assert cached.pointer("deep/a.gguf") == repo / "snapshots" / COMMIT / "deep/a.gguf"
    assert cached.blob(SHA256) == repo / "blobs" / SHA256
    assert cached.partial(SHA256) == repo / "blobs" / f"{SHA256}.stoker.incomplete"
    assert cached.lock(SHA256) == tmp_path / ".locks/models--acme--tiny" / f"{SHA256}.lock"


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "../b", "a/..", "/a", ""])
def test_no_repository(tmp_path: Path, repo: str) -> None:
    with pytest.raises(ValueError, match="must be ORG/REPO"):
        CachedRepo(tmp_path, repo, COMMIT)


@pytest.mark.parametrize("revision", ["main", "", "..", COMMIT[:-1], COMMIT.replace("0", "A")])
def test_no_commit(tmp_path: Path, revision: str) -> None:
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        CachedRepo(tmp_path, "acme/tiny", revision)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a.gguf", "a/../../b.gguf"])
def test_no_name_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="inside the repository"):
        CachedRepo(tmp_path, "acme/tiny", COMMIT).pointer(name)


@pytest.mark.parametrize("etag", ["", "..", "../../etc", "a/b", "abc"])
def test_no_etag(tmp_path: Path, etag: str) -> None:
    with pytest.raises(ValueError, match="none that a hub gives"):
        CachedRepo(tmp_path, "acme/tiny", COMMIT).blob(etag)


def test_bytes_on_disk(tmp_path: Path) -> None:
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    file = ModelFile(path="a.gguf", size=100, sha256=SHA256)
    cached.blobs.mkdir(parents=True)
    assert cached.bytes_on_disk(file) == 0
    cached.partial(SHA256).write_bytes(bytes(40))
    assert cached.bytes_on_disk(file) == 40
    cached.partial(SHA256).write_bytes(bytes(101))  # not a part of this file
    assert cached.bytes_on_disk(file) == 0
    cached.blob(SHA256).write_bytes(bytes(100))
    assert (cached.bytes_on_disk(file), cached.holds(file)) == (100, False)
    cached.link(file, SHA256)
    assert (cached.bytes_on_disk(file), cached.holds(file)) == (100, True)
    assert cached.pointer("a.gguf").readlink() == Path("../../blobs") / SHA256
    cached.link(file, SHA256)  # again is fine
    assert cached.holds(file)


def test_a_content_in_the_shared_store_is_followed(tmp_path: Path) -> None:
    """Since version 2 the hub's library may keep a blob outside the repository's folder, behind a link."""
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    file = ModelFile(path="deep/a.gguf", size=100, sha256=SHA256)
    cached.blobs.mkdir(parents=True)
    (tmp_path / "shared").write_bytes(bytes(100))
    cached.blob(SHA256).symlink_to(tmp_path / "shared")
    cached.link(file, SHA256)
    assert cached.holds(file)
    assert cached.pointer("deep/a.gguf").read_bytes() == bytes(100)


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("links are not supported")

    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    file = ModelFile(path="a.gguf", size=100, sha256=SHA256)
    cached.blobs.mkdir(parents=True)
    cached.blob(SHA256).write_bytes(bytes(100))
    monkeypatch.setattr(Path, "symlink_to", refuse)
    cached.link(file, SHA256)
    assert cached.holds(file)


def test_free_space_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert 0 < free_space(tmp_path / "a/b/c") < 1024 * 1024 * TIB
