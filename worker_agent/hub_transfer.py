"""Brings the files of one model from the hub into the hub's own cache on this host. Blocking: see `hub_download.py`.

It speaks HTTP itself, and not through the library's `hf_hub_download`: since its version 2 that throws away what was
received when it is interrupted. Here a part stays on disk and is gone on with, even after a crash of the host; and the
checksum is verified, which the library leaves out.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import FileMetadataError
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # public, but untyped

from stoker.domain.base import Value
from stoker.domain.models import ModelFile
from stoker.domain.units import format_bytes
from stoker.hub_errors import HUB_FAILURES, hub_error, is_passing
from stoker.model_source_error import ModelSourceError
from worker_agent.hub_cache import CachedRepo, free_space
from worker_agent.partial_file import PartialFile

RETRY_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts that brought no byte; after the last one the download is given up for now."""
LOCK_POLL = 0.5
"""Seconds between looks at what the holder of a lock has got."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_T = TypeVar("_T")


class DownloadRequest(Value):
    """All files of one model, in the order of their shards."""

    cache_dir: Path
    repo: str
    revision: str  # a commit's sha
    files: tuple[ModelFile, ...]
    lock_patience: float = 120  # seconds to wait for another downloader of which nothing more is seen to arrive


class ModelTransfer:
    """Transfers what a request asks for. `report` is called often, with the bytes that are on disk."""

    def __init__(self, request: DownloadRequest, report: Callable[[int], None]) -> None:
        self._request = request
        self._repo = CachedRepo(request.cache_dir, request.repo, request.revision)
        self._report = report
        self._there = {file.path: self._repo.bytes_on_disk(file) for file in request.files}

    def run(self) -> None:
        """Returns when all files are there. Raises ModelSourceError."""
        try:
            for file in self._request.files:
                if not self._repo.holds(file):
                    self._fetch(file)
                self._note(file, file.size)
        except HUB_FAILURES as error:
            raise hub_error(error, repo=self._request.repo, endpoint=constants.ENDPOINT, asker="worker") from error
        except OSError as error:
            raise _disk_error(error, self._request.cache_dir) from error

    def _note(self, file: ModelFile, there: int) -> None:
        """Takes down, and reports, that `there` bytes of the file are on disk."""
        self._there[file.path] = there
        self._report(sum(self._there.values()))

    def _fetch(self, file: ModelFile) -> None:
        etag = self._etag(file)
        blob = self._repo.blob(etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self._alone(file, etag) as path:
            if not (blob.exists() and blob.stat().st_size == file.size):
                self._complete(file, file.sha256 or (etag if _SHA256.fullmatch(etag) else ""), path)
                path.replace(blob)
            self._repo.link(file, etag)

    def _etag(self, file: ModelFile) -> str:
        """The name of the file's content. Raises ModelSourceError when it is other content than was inspected."""
        url = hf_hub_url(self._request.repo, file.path, revision=self._request.revision)
        told = self._patiently(lambda: get_hf_file_metadata(url), progress=lambda: 0)
        if told.etag is None:
            raise FileMetadataError(f"no etag for {url}")
        is_other = _SHA256.fullmatch(told.etag) and file.sha256 not in ("", told.etag)  # a mirror's may be no sha256
        if is_other or told.size not in (None, file.size):
            message = (
                f"{file.path} of {self._request.repo} had {file.size} bytes and the sha256 {file.sha256 or '(none)'} "
                f"when it was inspected, and now the hub tells of {told.size} bytes and {told.etag}"
            )
            raise ModelSourceError("checksum_mismatch", message)
        return told.etag

    @contextmanager
    def _alone(self, file: ModelFile, etag: str) -> Iterator[Path]:
        """Gives the path for the part, once nobody else downloads this content, in Stoker or any other program.

        The lock is the hub's own. A holder that gets nothing more is not waited for: by the hub's rule a lock only
        saves bandwidth, and who goes on without it writes to a path that no other has.
        """
        lock = self._repo.lock(etag)
        lock.parent.mkdir(parents=True, exist_ok=True)
        last_change, arrived = time.monotonic(), -1
        with ExitStack() as stack:
            while time.monotonic() - last_change <= self._request.lock_patience or arrived < 0:
                try:
                    stack.enter_context(WeakFileLock(lock, timeout=LOCK_POLL))
                except TimeoutError:
                    now_there = max((path.stat().st_size for path in self._repo.blobs.glob(f"{etag}*")), default=0)
                    if now_there != arrived:
                        last_change, arrived = time.monotonic(), now_there
                    self._note(file, min(arrived, file.size))
                else:
                    yield self._repo.partial(etag)
                    return
            own = self._repo.partial(f"{etag}-{os.getpid()}")
            stack.callback(own.unlink, missing_ok=True)
            yield own

    def _complete(self, file: ModelFile, sha256: str, path: Path) -> None:
        """Makes the part at `path` the whole file. Raises ModelSourceError, HUB_FAILURES and OSError."""
        try:
            with PartialFile(path, on_read=lambda size: self._note(file, size)) as part:
                resumed = part.size > 0
                self._patiently(lambda: self._receive(file, part), progress=lambda: part.size)
                if resumed and not _is_right(part, file, sha256):  # what a crash of the host left may be anything
                    part.restart()
                    self._patiently(lambda: self._receive(file, part), progress=lambda: part.size)
                if not _is_right(part, file, sha256):
                    path.unlink()
                    message = (
                        f"{file.path} of {self._request.repo} came as {part.size} bytes with the sha256 {part.sha256}, "
                        f"and should be {file.size} bytes with {sha256}: something on the way changes it"
                    )
                    raise ModelSourceError("checksum_mismatch", message)
                part.sync()
        except OSError as error:
            if error.errno in _DISK_FULL:
                path.unlink(missing_ok=True)  # a full disk harms all that runs here
            raise

    def _receive(self, file: ModelFile, part: PartialFile) -> None:
        """One request for what is missing."""
        if part.size > file.size:
            part.restart()
        if part.size == file.size:
            return
        url = hf_hub_url(self._request.repo, file.path, revision=self._request.revision)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={part.size}-"}
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                part.restart()
            for block in response.iter_bytes():  # as it comes: what a larger block still waits for is lost on failure
                part.append(block)
                self._note(file, part.size)
                if part.size > file.size:
                    return
        if part.size < file.size:
            raise httpx2.RemoteProtocolError(f"the answer ended after {part.size} of {file.size} bytes")

    def _patiently(self, step: Callable[[], _T], progress: Callable[[], int]) -> _T:
        """Does `step`, again where its failure may pass; `progress` tells whether an attempt brought something."""
        failures = 0
        while True:
            before = progress()
            try:
                return step()
            except HUB_FAILURES as error:
                failures = 1 if progress() > before else failures + 1
                if not is_passing(error) or failures > len(RETRY_PAUSES):
                    raise
            time.sleep(RETRY_PAUSES[failures - 1])


def _is_right(part: PartialFile, file: ModelFile, sha256: str) -> bool:
    return part.size == file.size and sha256 in ("", part.sha256)


def _disk_error(error: OSError, cache_dir: Path) -> ModelSourceError:
    if error.errno in _DISK_FULL:
        message = f"the disk of {cache_dir} is full: {format_bytes(free_space(cache_dir))} are free"
        return ModelSourceError("disk_full", message, retryable=True)
    message = f"writing below {cache_dir} failed: {error.strerror or error} ({error.filename or 'no file'})"
    return ModelSourceError("disk_error", message, retryable=error.errno not in _NOT_ALLOWED)
