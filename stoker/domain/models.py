"""Where a model comes from, and which files it is made of."""

import re
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from pydantic import model_validator

from stoker.domain.base import Bytes, Value, WorkerName

_REPO = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
_QUANT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")
_HUB_FILE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*\.gguf$")
_URL = re.compile(
    r"^https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*\.gguf$"
)
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf$")

MAX_SHARDS = 512
"""Files that one model may be made of: each is asked for its header. The largest published ones have some sixty."""

_MAX_URL = 2048  # characters


class SourceKind(StrEnum):
    """FILE lies on the workers' disks; HUB is a Hugging Face repository; URL is a file on a web server."""

    FILE = "file"
    HUB = "hf"
    URL = "url"


class ModelSource(Value):
    """A model as an administrator names it.

    `file:PATH`, `hf:ORG/REPO`, `hf:ORG/REPO:QUANT`, `hf:ORG/REPO/FILE` or `https://HOST/PATH`. Of a sharded model, PATH
    and FILE are its first shard.
    """

    kind: SourceKind
    path: str = ""  # FILE: absolute path on the worker
    repo: str = ""  # HUB: "org/repo"
    quant: str = ""  # HUB: "Q4_K_M"; empty: the repository must leave no choice, or Stoker's preference decides
    file: str = ""  # HUB: path in the repository
    url: str = ""  # URL: without user, query and fragment: these may hold secrets, and sources are shown and logged

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the written form. Raises ValueError saying what is wrong and what would be right."""
        scheme, _, rest = text.partition(":")
        if scheme in ("https", "http") and rest:
            return cls(kind=SourceKind.URL, url=text)
        if scheme == "file" and rest:
            return cls(kind=SourceKind.FILE, path=rest)
        if scheme == "hf" and rest:
            parts = rest.split("/")
            if len(parts) > 2:
                return cls(kind=SourceKind.HUB, repo="/".join(parts[:2]), file="/".join(parts[2:]))
            repo, _, quant = rest.partition(":")
            return cls(kind=SourceKind.HUB, repo=repo, quant=quant)
        raise ValueError(
            f"{text!r} is no model source: "
            "write file:/path/to/model.gguf, hf:ORG/REPO[:QUANT|/FILE.gguf] or https://host/path/model.gguf"
        )

    @model_validator(mode="after")
    def _check_grammar(self) -> Self:
        if self.kind is SourceKind.FILE:
            if not self.path.startswith("/") or "\0" in self.path or ".." in self.path.split("/"):
                raise ValueError(f"file:{self.path} must be an absolute path without '..'")
            if not self.path.endswith(".gguf"):
                raise ValueError(f"file:{self.path} must end in .gguf")
            return self
        if self.kind is SourceKind.URL:
            _check_url(self.url)
            return self
        if not _REPO.fullmatch(self.repo) or ".." in self.repo:
            raise ValueError(f"hf:{self.repo} must name a repository as ORG/REPO")
        if self.quant and not _QUANT.fullmatch(self.quant):
            raise ValueError(f"{self.quant!r} is no quantisation: write it like Q4_K_M")
        if self.file and (not _HUB_FILE.fullmatch(self.file) or ".." in self.file):
            raise ValueError(f"{self.file!r} must be the path of a .gguf file in the repository")
        return self

    def __str__(self) -> str:
        if self.kind is SourceKind.FILE:
            return f"file:{self.path}"
        if self.kind is SourceKind.URL:
            return self.url
        return f"hf:{self.repo}" + (f"/{self.file}" if self.file else f":{self.quant}" if self.quant else "")


class ModelFile(Value):
    """One GGUF file of a model: the whole model, or one shard of it."""

    path: str  # FILE: absolute path on the worker; HUB: path in the repository; URL: its own
    size: Bytes
    sha256: str = ""  # empty where the source does not say


class ModelFiles(Value):
    """The files that make up one model at one revision, first shard first."""

    source: ModelSource
    revision: str = ""  # HUB: the commit sha that was resolved; else empty
    files: tuple[ModelFile, ...]
    found_on: tuple[WorkerName, ...] = ()  # FILE: the workers that were seen to hold it

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """Names these files on any worker: `hf:org/repo@<revision>/<first file>`, or `file:<path>`."""
        first = self.files[0].path if self.files else ""
        return f"hf:{self.source.repo}@{self.revision}/{first}" if self.revision else f"file:{first}"


def shard_names(first: str) -> tuple[str, ...]:
    """The names of all shards, in order, given the first (`…-00001-of-0000N.gguf`); any other name stands alone.

    Raises ValueError when the name is a shard other than the first (llama.cpp opens a sharded model by its first), or
    one of more than MAX_SHARDS.
    """
    match = _SHARD.fullmatch(first)
    if match is None:
        return (first,)
    number, count = int(match["number"]), int(match["count"])
    if number != 1 or count < 1:
        raise ValueError(
            f"{first!r} is shard {number} of {count}: name the first, {match['stem']}-00001-of-{count:05d}.gguf"
        )
    if count > MAX_SHARDS:
        raise ValueError(f"{first!r} is one of {count} shards: at most {MAX_SHARDS} are read")
    return tuple(f"{match['stem']}-{index:05d}-of-{count:05d}.gguf" for index in range(1, count + 1))


def _check_url(url: str) -> None:
    """Raises ValueError for all but a plain address of a .gguf file."""
    if not _URL.fullmatch(url) or len(url) > _MAX_URL:
        raise ValueError(
            f"{url[:200]!r} must be the address of a .gguf file, like https://host/path/model.gguf: "
            f"at most {_MAX_URL} characters, without user, ?query and #fragment"
        )
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and ".." not in parts.path.split("/")
    except ValueError:  # brackets that are no IPv6 address, or a port that is no number
        usable = False
    if not usable:
        raise ValueError(f"{url[:200]!r} must name a host, and a path without '..'")
