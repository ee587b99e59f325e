"""Paths in the hub's cache: the layout, and names that would lead out of it."""

import os
from pathlib import Path

import pytest

from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.units import TIB
from worker_agent.hub_cache import CachedRepo, find_whole_models, free_space, repo_of_key

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


def lies(cache: Path, repo: str, name: str, *, commit: str = COMMIT, changed: float = 0.0) -> None:
    """A file as a hub's tools leave it: a link of its name to its content."""
    cached = CachedRepo(cache, repo, commit)
    cached.blobs.mkdir(parents=True, exist_ok=True)
    etag = f"{len(list(cached.blobs.iterdir())):064d}"
    cached.blob(etag).write_bytes(b"GGUF")
    cached.link(ModelFile(path=name, size=4), etag)
    if changed:
        os.utime(cached.pointer("x").parent, (changed, changed))


def test_models_that_lie_whole(tmp_path: Path) -> None:
    other = COMMIT[::-1]
    lies(tmp_path, "acme/tiny", "a.gguf")
    lies(tmp_path, "acme/tiny", "deep/b.gguf")
    lies(tmp_path, "acme/tiny", "a.gguf", commit=other)
    lies(tmp_path, "acme/tiny", "README.md")
    for number in (1, 2):
        lies(tmp_path, "acme/big", f"c-{number:05d}-of-00002.gguf")
        lies(tmp_path, "acme/part", f"c-{number:05d}-of-00003.gguf")
    expected = (
        f"hf:acme/big@{COMMIT}/c-00001-of-00002.gguf",
        f"hf:acme/tiny@{COMMIT}/a.gguf",
        f"hf:acme/tiny@{COMMIT}/deep/b.gguf",
        f"hf:acme/tiny@{other}/a.gguf",
    )
    assert find_whole_models(tmp_path, 10) == expected


def test_their_keys_are_those_of_the_files_that_a_request_names(tmp_path: Path) -> None:
    lies(tmp_path, "acme/tiny", "a.gguf")
    files = ModelFiles(
        source=ModelSource.parse("hf:acme/tiny:Q4_0"), revision=COMMIT, files=(ModelFile(path="a.gguf", size=4),)
    )
    assert find_whole_models(tmp_path, 10) == (files.key,)


def test_of_many_models_the_latest_are_told(tmp_path: Path) -> None:
    for number in range(4):
        lies(tmp_path, f"acme/m{number}", "a.gguf", changed=1000.0 + number % 3)
    keys = find_whole_models(tmp_path, 2)
    assert f"hf:acme/m2@{COMMIT}/a.gguf" in keys
    assert len(keys) == 2
    assert f"hf:acme/m0@{COMMIT}/a.gguf" not in keys


def test_what_is_no_model_is_passed_over(tmp_path: Path) -> None:
    assert find_whole_models(tmp_path / "none", 10) == ()
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    lies(tmp_path, "acme/tiny", "a.gguf")
    cached.pointer("a.gguf").resolve().unlink()  # a link that leads nowhere: its content was cleaned up
    for folder in ("models--acme", "models--acme--b--c", "datasets--acme--tiny", "models--acme--other"):
        (tmp_path / folder / "snapshots" / "main").mkdir(parents=True)
        (tmp_path / folder / "snapshots" / "main" / "a.gguf").touch()
    assert find_whole_models(tmp_path, 10) == ()


def test_a_key_names_the_files_of_a_model(tmp_path: Path) -> None:
    repo, names = repo_of_key(tmp_path, f"hf:acme/tiny@{COMMIT}/deep/m-00001-of-00002.gguf")
    assert repo == CachedRepo(tmp_path, "acme/tiny", COMMIT)
    assert names == ("deep/m-00001-of-00002.gguf", "deep/m-00002-of-00002.gguf")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "file:/models/m.gguf",
        "hf:acme/tiny@main/m.gguf",
        f"hf:acme@{COMMIT}/m.gguf",
        f"hf:acme/tiny@{COMMIT}/m.txt",
        f"hf:acme/tiny@{COMMIT}/../m.gguf",
        f"hf:acme/tiny@{COMMIT}//etc/m.gguf",
        f"hf:../..@{COMMIT}/m.gguf",
        f"hf:acme/tiny@{COMMIT}/m-00002-of-00002.gguf",
    ],
)
def test_no_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=r"named hf:ORG|shard 2 of 2|ORG/REPO|inside the repository"):
        repo_of_key(tmp_path, key)


def test_dropping_takes_the_name_and_what_it_alone_has(tmp_path: Path) -> None:
    lies(tmp_path, "acme/tiny", "deep/a.gguf")
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    cached.link(ModelFile(path="b.gguf", size=4), f"{0:064d}")
    assert cached.drop("b.gguf") == 0
    assert cached.pointer("deep/a.gguf").read_bytes() == b"GGUF"
    assert cached.drop("deep/a.gguf") == 4
    assert list(cached.blobs.iterdir()) == []
    assert not (cached.blobs.parent / "snapshots").exists()
    assert cached.drop("deep/a.gguf") == 0, "again is fine"


def test_dropping_what_is_no_link(tmp_path: Path) -> None:
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    cached.pointer("a.gguf").parent.mkdir(parents=True)
    cached.pointer("a.gguf").write_bytes(b"GGUF")
    assert cached.drop("a.gguf") == 4
    assert not cached.pointer("a.gguf").exists()


@pytest.mark.parametrize("shared", [True, False])
def test_dropping_leaves_what_lies_outside(tmp_path: Path, shared: bool) -> None:
    """A blob that is a link to a store that others share; or a name that somebody has linked to a file of their own."""
    cached = CachedRepo(tmp_path / "cache", "acme/tiny", COMMIT)
    cached.blobs.mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"GGUF")
    if shared:
        cached.blob(SHA256).symlink_to(tmp_path / "outside")
        cached.link(ModelFile(path="a.gguf", size=4), SHA256)
    else:
        cached.pointer("a.gguf").parent.mkdir(parents=True)
        cached.pointer("a.gguf").symlink_to(tmp_path / "outside")
    assert cached.drop("a.gguf") == 0
    assert (tmp_path / "outside").read_bytes() == b"GGUF"
    assert not cached.pointer("a.gguf").is_symlink()
    assert list(cached.blobs.iterdir()) == []


def test_dropping_a_part(tmp_path: Path) -> None:
    cached = CachedRepo(tmp_path, "acme/tiny", COMMIT)
    cached.blobs.mkdir(parents=True)
    file = ModelFile(path="a.gguf", size=100, sha256=SHA256)
    cached.partial(SHA256).write_bytes(bytes(40))
    assert (cached.drop_part(file), cached.drop_part(file)) == (40, 0)
    assert cached.drop_part(ModelFile(path="a.gguf", size=100)) == 0
