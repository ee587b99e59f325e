"""The Hugging Face hub, as the control plane sees it: what a source means, and what the model's header says.

Nothing but the file list and the headers is transferred, and headers only once. `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE` and the library's other variables hold, for every request goes through its own HTTP session.
"""

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from huggingface_hub import (
    CachedRevisionInfo,
    HfApi,
    constants,
    get_session,
    hf_hub_url,
    hf_raise_for_status,
    scan_cache_dir,
)
from huggingface_hub.errors import CacheNotFound, FileMetadataError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but untyped there

from stoker.byte_source import FileSource
from stoker.domain.gguf import Header, ModelProfile, ProjectorProfile
from stoker.domain.models import ModelFile, ModelFiles, ModelSource, SourceKind
from stoker.domain.quantisation import AmbiguousFile, NoSuchFile, select_file
from stoker.gguf_header import Allowance, GGUFError, charged, profile_of, projector_of, read_header
from stoker.header_cache import CachedHeader, HeaderCache
from stoker.hub_errors import HUB_FAILURES, hub_error
from stoker.model_source_error import ModelSourceError
from stoker.range_source import FIRST_BLOCK, SHARD_BLOCK, RangeSource, ranged, read_range
from stoker.shard_reading import side_by_side

T = TypeVar("T")

LISTING_SECONDS = 5.0
"""For so long a repository's file list is taken as read before: who tries several options asks the hub once."""

_LISTINGS = 256  # repositories whose file lists are remembered
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HuggingFaceHub:
    """Satisfies `activities.ports.ModelHub`.

    `endpoint` and `token` default to what the environment says, `cache_dir` (read only with HF_HUB_OFFLINE set) to the
    library's own. `timeout_seconds` bounds one `inspect` as a whole. What `headers` holds is not read again.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        cache_dir: Path | None = None,
        timeout_seconds: float = 60,
        headers: HeaderCache | None = None,
    ) -> None:
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token
        self._cache_dir = cache_dir
        self._timeout_seconds = timeout_seconds
        self._headers = headers or HeaderCache()
        self._listings: OrderedDict[str, tuple[float, tuple[str, dict[str, ModelFile]]]] = OrderedDict()
        self._lock = threading.Lock()
        # Of its own: a hub that hangs must not take the threads that the database's transactions run in.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="hub")

    async def inspect(self, source: ModelSource) -> tuple[ModelFiles, ModelProfile]:
        """Resolves `source` to files at the newest commit and reads their headers, by range requests.

        With HF_HUB_OFFLINE set, what this host's cache holds is all the hub there is. Raises ModelSourceError.
        """
        return await self._in_thread(source, profile_of)

    async def inspect_projector(self, source: ModelSource) -> ProjectorProfile:
        """The multimodal projector that `source` names, by its header. Raises ModelSourceError."""
        return (await self._in_thread(source, projector_of))[1]

    async def _in_thread(self, source: ModelSource, described: Callable[[Sequence[Header]], T]) -> tuple[ModelFiles, T]:
        if source.kind is not SourceKind.HUB:
            raise ValueError(f"{source} is no hub source: only a worker can read it")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._inspect, source, described)

    def _inspect(self, source: ModelSource, described: Callable[[Sequence[Header]], T]) -> tuple[ModelFiles, T]:
        try:
            files, headers = self._read_cached(source) if constants.is_offline_mode() else self._read_remote(source)
            return files, described(headers)
        except GGUFError as error:
            raise ModelSourceError(error.code, f"{source}: {error}") from error
        except HUB_FAILURES as error:
            raise hub_error(error, repo=source.repo, endpoint=self._endpoint, asker="server") from error

    def _read_remote(self, source: ModelSource) -> tuple[ModelFiles, list[Header]]:
        deadline = time.monotonic() + self._timeout_seconds
        files = self._resolve(source)
        revision, allowance = files.revision, Allowance()

        def header(index: int) -> Header:
            return self._header(source.repo, revision, files.files[index], allowance, deadline, first=index == 0)

        return files, side_by_side(header, len(files.files))

    def _header(
        self, repo: str, revision: str, file: ModelFile, allowance: Allowance, deadline: float, *, first: bool
    ) -> Header:
        key = f"{self._endpoint} {repo} {revision} {file.path}"
        if (cached := self._headers.get(key)) is not None and cached.size == file.size:
            return charged(cached.header, allowance)
        url = hf_hub_url(repo, file.path, revision=revision, endpoint=self._endpoint)
        request_headers = build_hf_headers(token=self._token)

        def fetch(start: int, end: int) -> bytes:
            asked = {**request_headers, **ranged(start, end)}
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            try:
                if time.monotonic() > deadline:
                    raise TimeoutError
                with get_session().stream("GET", url, headers=asked, timeout=timeout) as response:
                    hf_raise_for_status(response)
                    received = read_range(response, start, end, deadline)
            except TimeoutError as error:
                message = f"{url} is too slow: its header was not read in time"
                raise ModelSourceError("hub_unavailable", message, retryable=True) from error
            if len(received) < end - start:
                at = start + len(received)
                message = f"{url} ends at byte {at}, before the {file.size} bytes it is listed with"
                raise ModelSourceError("hub_unavailable", message, retryable=True)
            return received

        header = read_header(RangeSource(fetch, file.size, block=FIRST_BLOCK if first else SHARD_BLOCK), allowance)
        self._headers.put(key, CachedHeader(header, file.size))
        return header

    def _resolve(self, source: ModelSource) -> ModelFiles:
        """The source's files by the list of a moment ago or, where that is old or lacks them, by a new one."""
        with self._lock:
            read_at, listing = self._listings.get(source.repo, (float("-inf"), None))
        if listing is not None and time.monotonic() - read_at <= LISTING_SECONDS:
            with suppress(ModelSourceError):
                return _choose(source, *listing)
        listing = self._list_files(source.repo)
        with self._lock:
            self._listings[source.repo] = time.monotonic(), listing
            self._listings.move_to_end(source.repo)
            while len(self._listings) > _LISTINGS:
                self._listings.popitem(last=False)
        return _choose(source, *listing)

    def _list_files(self, repo: str) -> tuple[str, dict[str, ModelFile]]:
        """The newest commit and its GGUF files by name. Raises HUB_FAILURES."""
        api = HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(repo, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
            found = [_model_file(sibling) for sibling in info.siblings or () if sibling.rfilename.endswith(".gguf")]
            if not info.sha:
                raise ValueError("it names no commit")
        except HUB_FAILURES:
            raise
        except (ValueError, KeyError, TypeError) as error:  # not JSON, or other JSON than a hub's
            raise FileMetadataError(f"the hub's answer about {repo}: {error}") from error
        return info.sha, {file.path: file for file in found}

    def _read_cached(self, source: ModelSource) -> tuple[ModelFiles, list[Header]]:
        """Takes the branch `main` as it was last seen, or else the newest revision that holds what is asked for."""
        refusal: ModelSourceError | None = None
        for revision in self._cached_revisions(source.repo):
            paths = {file.file_path.relative_to(revision.snapshot_path).as_posix(): file for file in revision.files}
            available = {
                name: ModelFile(path=name, size=file.size_on_disk, sha256=_sha256_of_blob(file.blob_path))
                for name, file in paths.items()
                if name.endswith(".gguf")
            }
            try:
                files = _choose(source, revision.commit_hash, available)
            except ModelSourceError as error:
                refusal = refusal or error
                continue
            with ExitStack() as stack:
                opened = [stack.enter_context(FileSource(paths[file.path].file_path)) for file in files.files]
                allowance = Allowance()
                return files, [read_header(file, allowance) for file in opened]
        raise refusal or OfflineModeIsEnabled(source.repo)

    def _cached_revisions(self, repo: str) -> list[CachedRevisionInfo]:
        try:
            cache = scan_cache_dir(self._cache_dir or constants.HF_HUB_CACHE)
        except CacheNotFound:
            return []
        found = [cached for cached in cache.repos if cached.repo_type == "model" and cached.repo_id == repo]
        revisions = [revision for cached in found for revision in cached.revisions]
        return sorted(revisions, key=lambda revision: ("main" in revision.refs, revision.last_modified), reverse=True)


def _model_file(sibling: RepoSibling) -> ModelFile:
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts or not sibling.rfilename.isprintable():
        raise ValueError(f"{sibling.rfilename!r} is no file name")
    if sibling.lfs is not None:
        return ModelFile(path=sibling.rfilename, size=sibling.lfs.size, sha256=sibling.lfs.sha256)
    if sibling.size is None:
        raise ValueError(f"the size of {sibling.rfilename} is missing")
    return ModelFile(path=sibling.rfilename, size=sibling.size)


def _sha256_of_blob(path: Path) -> str:
    """The cache names large files (LFS) by their sha256, and small ones (git) by their sha1."""
    return path.name if _SHA256.fullmatch(path.name) else ""


def _choose(source: ModelSource, revision: str, available: Mapping[str, ModelFile]) -> ModelFiles:
    match select_file(tuple(available), source.quant, source.file):
        case NoSuchFile(message=message):
            raise ModelSourceError("file_not_found", f"hf:{source.repo}: {message}")
        case AmbiguousFile(message=message):
            raise ModelSourceError("ambiguous_model", f"hf:{source.repo}: {message}")
        case names:
            return ModelFiles(source=source, revision=revision, files=tuple(available[name] for name in names))
