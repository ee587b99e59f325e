"""Where the hub's own cache keeps things: a public layout, shared with every other tool on the host.

    models--ORG--REPO/snapshots/COMMIT/NAME → ../../blobs/ETAG      the file as it is named, a link
    models--ORG--REPO/blobs/ETAG                                    its content; a large file's etag is its sha256
    models--ORG--REPO/blobs/ETAG.*.incomplete                       a part of it
    .locks/models--ORG--REPO/ETAG.lock                              held by whoever downloads it

https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes it.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stoker.domain.models import ModelFile

_REPO = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
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

    def link(self, file: ModelFile, etag: str) -> None:
        """Makes the content of that etag appear under the file's name."""
        pointer, blob = self.pointer(file.path), self.blob(etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            blob.replace(pointer)  # a file system without links: as the hub's library does there


def free_space(folder: Path) -> int:
    """Bytes that are free where `folder` is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
