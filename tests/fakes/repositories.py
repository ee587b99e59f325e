"""Repositories that are folders: `ROOT/ORG/REPO/…`, with the checksums that a hub knows of their files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_HUGE = 1 << 30  # bytes
_LEAST = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file of a repository."""

    name: str
    path: Path
    size: int
    sha256: str
    sha1: str

    @property
    def is_large(self) -> bool:
        """Whether it is kept outside git (LFS)."""
        return self.name.endswith(".gguf")


class Repositories:
    """All repositories under `root`, as they are on disk at the moment."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._digests: dict[tuple[Path, int, int], tuple[str, str]] = {}

    def files(self, repo: str) -> dict[str, StoredFile] | None:
        """The repository's files by name, or None when there is no such repository."""
        folder = self._root / repo
        if not folder.is_dir():
            return None
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return {name: self._stored(name, folder / name) for name in names}

    def by_sha256(self, sha256: str) -> StoredFile | None:
        """The large file of that content, in whatever repository."""
        repos = (path for path in self._root.glob("*/*") if path.is_dir())
        stored = (
            file for repo in repos for file in (self.files(repo.relative_to(self._root).as_posix()) or {}).values()
        )
        return next((file for file in stored if file.is_large and file.sha256 == sha256), None)

    def commit(self, repo: str) -> str:
        """The sha of the repository's newest commit."""
        files = self.files(repo) or {}
        listing = "\n".join(f"{file.sha256} {file.name}" for file in files.values())
        return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()

    def _stored(self, name: str, path: Path) -> StoredFile:
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            with path.open("rb") as file:
                # A model whose weights are a hole in the file is there for its header, whatever its size.
                content = file.read(stat.st_blocks * 512 + _LEAST if stat.st_size > _HUGE else -1)
            sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            self._digests[key] = hashlib.sha256(content).hexdigest(), sha1.hexdigest()
        return StoredFile(name, path, stat.st_size, *self._digests[key])
