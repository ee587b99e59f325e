"""Brings the files of one model into the hub's own cache on this host. Blocking: see `hub_download.py`.

Several files at a time; each from another worker that holds it, where there is one, else from the hub. It speaks HTTP
itself, and not through the library's `hf_hub_download`: since its version 2 that throws away what was received when it
is interrupted. Here a part stays on disk and is gone on with, even after a crash of the host; and the checksum is
verified, which the library leaves out.
"""

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import FileMetadataError
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # public, but untyped

from stoker.domain.base import Value
from stoker.domain.files import Peer
from stoker.domain.models import ModelFile, ModelFiles, ModelSource, SourceKind
from stoker.domain.units import format_bytes
from stoker.hub_errors import HUB_FAILURES, hub_error, is_passing
from stoker.model_source_error import ModelSourceError
from worker_agent.hub_cache import CachedRepo, free_space
from worker_agent.partial_file import PartialFile, read_sha256
from worker_agent.peer_files import PeerFailedError, PeerSource
from worker_agent.transfer_state import TransferState

CONNECTIONS = 4
"""Files of one model that are fetched at a time."""
REFETCHES = 2
"""So many times a file that came wrong is fetched anew from its first byte, before it is given up."""
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
    verified: tuple[str, ...] = ()  # files whose content was checked since it last changed
    peers: tuple[Peer, ...] = ()  # workers that hold all of it, to be asked before the hub
    mesh_folder: Path | None = None  # this worker's identity; None: it cannot ask others

    @property
    def model(self) -> str:
        """The key of the model, as other workers know it."""
        source = ModelSource(kind=SourceKind.HUB, repo=self.repo)
        return ModelFiles(source=source, revision=self.revision, files=self.files).key


class ModelTransfer:
    """Transfers what a request asks for; `state` is told what is on disk, and what came how."""

    def __init__(self, request: DownloadRequest, state: TransferState) -> None:
        self._request, self._state = request, state
        self._repo = CachedRepo(request.cache_dir, request.repo, request.revision)
        self._stop = threading.Event()
        peers = request.peers if request.mesh_folder is not None else ()
        self._peers = [PeerSource(peer, request.mesh_folder) for peer in peers if request.mesh_folder is not None]
        state.start({file.path: self._repo.bytes_on_disk(file) for file in request.files})

    def run(self) -> None:
        """Returns when all files are there. Raises ModelSourceError."""
        try:
            with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="file") as pool:
                tasks = [
                    pool.submit(self._make_present, number, file) for number, file in enumerate(self._request.files)
                ]
                failed = [
                    task for task in wait(tasks, return_when=FIRST_EXCEPTION).done if task.exception() is not None
                ]
                self._stop.set()  # one that cannot be had: the others would come for nothing
                pool.shutdown(cancel_futures=True)
            for task in failed:
                task.result()
        except HUB_FAILURES as error:
            raise hub_error(error, repo=self._request.repo, endpoint=constants.ENDPOINT, asker="worker") from error
        except OSError as error:
            raise _disk_error(error, self._request.cache_dir) from error

    def _make_present(self, number: int, file: ModelFile) -> None:
        if self._stop.is_set():
            raise _StoppedError
        if not (self._repo.holds(file) and self._is_verified(file)):
            self._fetch(number, file)
        self._state.note(file.path, file.size)
        self._state.verified(file.path)

    def _is_verified(self, file: ModelFile) -> bool:
        """Whether the content that lies there is right. What was not checked since it last changed is read for it.

        A wrong one is taken off the disk: by its name it is content that it is not.
        """
        if not file.sha256 or file.path in self._request.verified:
            return True
        pointer = self._repo.pointer(file.path)
        if read_sha256(pointer, on_read=lambda: self._state.note(file.path, file.size)) == file.sha256:
            return True
        self._state.say(f"{file.path} of {self._request.repo} is damaged on the disk, and is fetched again")
        self._repo.drop(file.path)
        return False

    def _fetch(self, number: int, file: ModelFile) -> None:
        peers = self._peers_for(number, file)
        name = file.sha256 if peers else self._etag(file)
        blob = self._repo.blob(name)
        blob.parent.mkdir(parents=True, exist_ok=True)
        sha256 = file.sha256 or (name if _SHA256.fullmatch(name) else "")
        with self._alone(file, name) as path:
            if not self._is_whole(file, blob, sha256):
                self._complete(file, sha256, path, peers)
                path.replace(blob)
            self._repo.link(file, name)

    def _is_whole(self, file: ModelFile, blob: Path, sha256: str) -> bool:
        """Whether the content is there already, under another commit's name or from another program, and right."""
        if not (blob.exists() and blob.stat().st_size == file.size):
            return False
        if not sha256 or read_sha256(blob, on_read=lambda: self._state.note(file.path, file.size)) == sha256:
            return True
        self._state.say(f"the content of {file.path} of {self._request.repo} is damaged on the disk: fetched again")
        return False

    def _peers_for(self, number: int, file: ModelFile) -> Sequence[PeerSource]:
        """Whom to ask for the file before the hub: those that have not failed, another one first for each file.

        Without a checksum nobody is asked: what a peer sends could not be told from what it should be.
        """
        usable = [peer for peer in self._peers if not peer.failed] if file.sha256 else []
        first = number % len(usable) if usable else 0
        return [*usable[first:], *usable[:first]]

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
    def _alone(self, file: ModelFile, name: str) -> Iterator[Path]:
        """Gives the path for the part, once nobody else downloads this content, in Stoker or any other program.

        The lock is the hub's own: one whose holder has died is free. A holder that gets nothing more is not waited
        for: by the hub's rule a lock only saves bandwidth, and who goes on without it writes to a path that no other
        has.
        """
        lock = self._repo.lock(name)
        lock.parent.mkdir(parents=True, exist_ok=True)
        last_change, arrived = time.monotonic(), -1
        with ExitStack() as stack:
            while time.monotonic() - last_change <= self._request.lock_patience or arrived < 0:
                if self._stop.is_set():
                    raise _StoppedError
                try:
                    stack.enter_context(WeakFileLock(lock, timeout=LOCK_POLL))
                except TimeoutError:
                    now_there = max((path.stat().st_size for path in self._repo.blobs.glob(f"{name}*")), default=0)
                    if now_there != arrived:
                        last_change, arrived = time.monotonic(), now_there
                    self._state.note(file.path, min(arrived, file.size))
                else:
                    yield self._repo.partial(name)
                    return
            own = self._repo.partial(f"{name}-{os.getpid()}")
            stack.callback(own.unlink, missing_ok=True)
            yield own

    def _complete(self, file: ModelFile, sha256: str, path: Path, peers: Sequence[PeerSource]) -> None:
        """Makes the part at `path` the whole file. Raises ModelSourceError, HUB_FAILURES and OSError."""
        try:
            with PartialFile(path, on_read=lambda size: self._state.note(file.path, size)) as part:
                for left in reversed(range(1 + REFETCHES)):
                    for peer in peers:
                        self._ask_peer(peer, file, part)
                    if part.size != file.size:
                        self._patiently(lambda: self._receive(file, part), progress=lambda: part.size)
                    if _is_right(part, file, sha256):
                        part.sync()
                        return
                    came = f"{part.size} bytes with the sha256 {part.sha256}"
                    peers = ()  # what they brought may be what is wrong
                    if left:  # also what a crash of the host left on disk may be anything
                        self._state.say(f"{file.path} of {self._request.repo} came as {came}, and is fetched again")
                        part.restart()
                path.unlink()
                message = (
                    f"{file.path} of {self._request.repo} came as {came}, {1 + REFETCHES} times, "
                    f"and should be {file.size} bytes with {sha256}: something on the way changes it"
                )
                raise ModelSourceError("checksum_mismatch", message)
        except OSError as error:
            if error.errno in _DISK_FULL:
                path.unlink(missing_ok=True)  # a full disk harms all that runs here
            raise

    def _ask_peer(self, peer: PeerSource, file: ModelFile, part: PartialFile) -> None:
        """What is missing, as much as that worker gives."""
        if part.size >= file.size or peer.failed:
            return

        def take(block: bytes) -> None:
            self._append(file, part, block)
            self._state.came_from_peer(len(block))

        try:
            peer.receive(self._request.model, file, part.size, take)
        except PeerFailedError as error:
            self._state.say(f"{file.path} did not come from {peer.name} to its end: {error}")

    def _receive(self, file: ModelFile, part: PartialFile) -> None:
        """One request to the hub for what is missing."""
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
                self._append(file, part, block)
                if part.size > file.size:
                    return
        if part.size < file.size:
            raise httpx2.RemoteProtocolError(f"the answer ended after {part.size} of {file.size} bytes")

    def _append(self, file: ModelFile, part: PartialFile, block: bytes) -> None:
        if self._stop.is_set():
            raise _StoppedError
        part.append(block)
        self._state.note(file.path, part.size)

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
            if self._stop.wait(RETRY_PAUSES[failures - 1]):
                raise _StoppedError


class _StoppedError(Exception):
    """Another file of the model cannot be had."""


def _is_right(part: PartialFile, file: ModelFile, sha256: str) -> bool:
    return part.size == file.size and sha256 in ("", part.sha256)


def _disk_error(error: OSError, cache_dir: Path) -> ModelSourceError:
    if error.errno in _DISK_FULL:
        message = f"the disk of {cache_dir} is full: {format_bytes(free_space(cache_dir))} are free"
        return ModelSourceError("disk_full", message, retryable=True)
    message = f"writing below {cache_dir} failed: {error.strerror or error} ({error.filename or 'no file'})"
    return ModelSourceError("disk_error", message, retryable=error.errno not in _NOT_ALLOWED)
