"""Where the hub's own cache keeps things: a public layout, shared with every other tool on the host.

    models--ORG--REPO/snapshots/COMMIT/NAME → ../../blobs/ETAG      the file as it is named, a link
    models--ORG--REPO/blobs/ETAG                                    its content; a large file's etag is its sha256
    models--ORG--REPO/blobs/ETAG.*.incomplete                       a part of it
    .locks/models--ORG--REPO/ETAG.lock                              held by whoever downloads it

https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes it.
"""

import heapq
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stoker.domain.models import ModelFile, ModelFiles, ModelSource, SourceKind, shard_names

_REPO = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KEY = re.compile(rf"hf:(?P<repo>{_REPO.pattern})@(?P<commit>{_COMMIT.pattern})/(?P<first>[^\0]{{1,500}}\.gguf)")
_ETAG = re.compile(r"[A-Za-z0-9_-]{8,128}")


@dataclass(frozen=True)
class CachedRepo:
    """One repository at one commit in the cache at `cache_dir`. Names that would lead out of it raise ValueError."""

    cache_dir: Path
    repo: str
    revision: str

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.revision):
            raise ValueError(f"revision {self.revision!r} must be a commit's sha of 40 hexadecimal digits")
        if not _REPO.fullmatch(self.repo) or ".." in self.repo:
            raise ValueError(f"repository {self.repo!r} must be ORG/REPO")

    @property
    def _folder_name(self) -> str:
        return f"models--{self.repo.replace('/', '--')}"

    @property
    def blobs(self) -> Path:
        """The folder of contents, whole and in part."""
        return self.cache_dir / self._folder_name / "blobs"

    def pointer(self, name: str) -> Path:
        """The file by its own name: what an engine is given, so that it finds the other shards beside it."""
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"file name {name!r} must be a path inside the repository")
        return self.cache_dir / self._folder_name / "snapshots" / self.revision / path

    def blob(self, etag: str) -> Path:
        """The content of that etag."""
        if not _ETAG.fullmatch(etag):
            raise ValueError(f"etag {etag!r} is none that a hub gives")
        return self.blobs / etag

    def partial(self, etag: str) -> Path:
        """What Stoker has of that content. The hub's tools know (and prune) it by its ending."""
        return self.blob(etag).with_name(f"{etag}.stoker.incomplete")

    def lock(self, etag: str) -> Path:
        """The lock that all downloaders of that content take."""
        return self.cache_dir / ".locks" / self._folder_name / f"{self.blob(etag).name}.lock"

    def holds(self, file: ModelFile) -> bool:
        """Whether the file is there under its name, in full length."""
        return _size(self.pointer(file.path)) == file.size

    def bytes_on_disk(self, file: ModelFile) -> int:
        """How much of the file is here already, whole, under another revision, or in part."""
        if self.holds(file):
            return file.size
        if not file.sha256:
            return 0
        found = (_size(path) for path in (self.blob(file.sha256), self.partial(file.sha256)))
        return max((size for size in found if size <= file.size), default=0)

    def drop(self, name: str) -> int:
        """Takes a file off the disk, and its content when no other name has it; the bytes that are free then.

        Content that is kept outside of the repository's folder, behind a link, stays: others may have it too.
        """
        pointer = self.pointer(name)
        blob = _target(pointer)
        freed = _size(pointer) if blob is None else 0  # no link: it is the file itself
        pointer.unlink(missing_ok=True)
        for folder in pointer.parents:
            if folder == self.blobs.parent or not _rmdir(folder):
                break
        if blob is None or blob.parent != self.blobs:
            return freed
        if any(_target(path) == blob for path in self.blobs.parent.glob("snapshots/**/*")):
            return 0
        freed = 0 if blob.is_symlink() else _size(blob)
        blob.unlink(missing_ok=True)
        return freed

    def drop_part(self, file: ModelFile) -> int:
        """Takes off what has come of a file that is not whole; the bytes that are free then."""
        part = self.partial(file.sha256) if file.sha256 else None
        size = _size(part) if part is not None else 0
        if part is not None:
            part.unlink(missing_ok=True)
        return size

    def link(self, file: ModelFile, etag: str) -> None:
        """Makes the content of that etag appear under the file's name."""
        pointer, blob = self.pointer(file.path), self.blob(etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            blob.replace(pointer)  # a file system without links: as the hub's library does there


def repo_of_key(cache_dir: Path, key: str) -> tuple[CachedRepo, tuple[str, ...]]:
    """Where the model of that key (`ModelFiles.key`) is, and its files' names. ValueError: it is none of a hub."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key[:300]!r} is no model from a hub: it is named hf:ORG/REPO@COMMIT/FIRST-FILE")
    repo = CachedRepo(cache_dir, match["repo"], match["commit"])
    names = shard_names(match["first"])
    for name in names:
        repo.pointer(name)
    return repo, names


def find_whole_models(cache_dir: Path, most: int) -> tuple[str, ...]:
    """`ModelFiles.key` of the models that lie whole in the cache, sorted; of more than `most`, the latest.

    A file appears under its name when its content is complete: whether all shards are there is all there is to check.
    Raises OSError when the cache cannot be listed; without one there are none.
    """
    found: list[tuple[float, str]] = []
    for repo_dir in sorted(cache_dir.glob("models--*")):
        for snapshot in sorted(repo_dir.glob("snapshots/*")):
            changed = _changed(snapshot)
            found += [(changed, key) for key in _whole_in(repo_dir.name, snapshot)]
    return tuple(sorted(key for _, key in heapq.nlargest(most, found)))


def _whole_in(folder_name: str, snapshot: Path) -> Iterator[str]:
    """The keys of the models in one repository at one commit."""
    repo = "/".join(folder_name.split("--")[1:])
    if not (_COMMIT.fullmatch(snapshot.name) and _REPO.fullmatch(repo)):
        return
    for path in sorted(snapshot.rglob("*.gguf")):
        try:
            source = ModelSource(kind=SourceKind.HUB, repo=repo)
            whole = all(path.with_name(name).is_file() for name in shard_names(path.name))
        except (OSError, ValueError):  # no first shard, unreadable, or a name that no hub gives
            continue
        if whole:
            first = ModelFile(path=path.relative_to(snapshot).as_posix(), size=0)
            yield ModelFiles(source=source, revision=snapshot.name, files=(first,)).key


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def free_space(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _target(path: Path) -> Path | None:
    """Where a link leads, as it is written; None: it is none."""
    try:
        return Path(os.path.normpath(path.parent / path.readlink()))
    except OSError:
        return None


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # something is in it
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
