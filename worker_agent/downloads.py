"""Downloads from the hub: each in a process that can be killed, and each once, however many instances wait for it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
from huggingface_hub import constants

from activities.ports import DownloadProgress, EvictionRefusedError
from stoker.domain.base import InstanceId
from stoker.domain.files import Peer, choose_for_room
from stoker.domain.models import ModelFile, ModelFiles
from stoker.domain.reports import StoredFile
from stoker.domain.units import format_bytes
from stoker.model_source_error import ModelSourceError
from worker_agent.disk_room import DiskRoom, Room
from worker_agent.download_process import DownloadProcess, progress_of
from worker_agent.file_records import FileRecords
from worker_agent.held_models import HeldModels
from worker_agent.hub_cache import CachedRepo, free_space, repo_of_key
from worker_agent.hub_transfer import DownloadRequest
from worker_agent.stored_files import WANTED_SECONDS, StoredFiles

_log = structlog.get_logger()

JUST_USED_SECONDS = WANTED_SECONDS
"""A model that was wanted so lately does not go to make room: its engine may be about to open it."""


def _nobody() -> Collection[InstanceId]:
    return ()


class HubDownloads:
    """This agent's downloads into the hub's cache at `cache_dir`, by default where the hub's library has it.

    `environment` is added to the agent's own for the downloading processes. A process of which nothing is heard for
    `silence_seconds` is ended; writing a large file back to a slow disk may take minutes. `records`: what is known of
    the files; by default it is forgotten with this object. `live`: instances that have a process here now. With
    `evict_for_room`, models that Stoker fetched and nobody uses go when another one lacks room. `mesh_folder`: this
    worker's identity, to ask others for files.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        free_space: Callable[[Path], int] = free_space,
        silence_seconds: float = 600,
        records: FileRecords | None = None,
        live: Callable[[], Collection[InstanceId]] = _nobody,
        evict_for_room: bool = True,
        mesh_folder: Path | None = None,
    ) -> None:
        self._cache_dir = (cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
        self._environment = {**(environment or {}), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._room = DiskRoom(self._cache_dir, free_space)
        self._silence_seconds = silence_seconds
        self._records = records or FileRecords()
        self._evict_for_room, self._mesh_folder = evict_for_room, mesh_folder
        self._running: dict[str, DownloadProcess] = {}  # by the model's key
        self._promises: dict[str, Path] = {}  # of room, by the model's key
        self._held = HeldModels(self._cache_dir)
        self.stored = StoredFiles(self._cache_dir, self._records, live=live, coming=lambda: frozenset(self._running))
        self._turn = asyncio.Lock()  # of whoever takes files away, or is about to need them

    def holds(self) -> tuple[str, ...]:
        """Keys of the models that lie whole in the cache; see `HeldModels.keys`."""
        return self._held.keys()

    def cached(self, files: ModelFiles) -> CachedRepo:
        """Where the files are, or will be. Raises ValueError for names that would lead out of the cache."""
        return CachedRepo(self._cache_dir, files.source.repo, files.revision)

    def held_file(self, key: str, path: str) -> Path | None:
        """Where the file of that path is, of the model of that key; None: the model is not here whole, or has no such.

        Fit for what strangers ask for. It looks at the disk.
        """
        try:
            repo, names = repo_of_key(self._cache_dir, key)
        except ValueError:
            return None
        whole = path in names and all(repo.pointer(name).is_file() for name in names)
        return repo.pointer(path) if whole else None

    async def fetch(
        self, files: ModelFiles, *, user: InstanceId = "", peers: Sequence[Peer] = (), keep: Sequence[str] = ()
    ) -> AsyncGenerator[DownloadProgress, None]:
        """Yields progress until all files are there. Raises ModelSourceError.

        Who asks for what is in work already joins in. When the last one closes its generator, or is cancelled in it,
        the process is killed; what has arrived stays, and the next time goes on from there. `user`, `peers`, `keep`:
        see `ModelStore.fetch`.
        """
        cached = self.cached(files)
        async with self._turn:  # from here on it is wanted: nobody takes it away
            on_disk = await asyncio.to_thread(lambda: {one.path: cached.bytes_on_disk(one) for one in files.files})
            missing = [one.path for one in files.files if on_disk[one.path] < one.size]
            await asyncio.to_thread(partial(self._records.wanted, files, user=user, missing=missing))
            await asyncio.to_thread(self.stored.share_use)
            request = self._request(files, peers)
            download = self._running.get(files.key)
            if download is None and not await asyncio.to_thread(self._is_there, cached, files):
                download = await self._start(request, files, on_disk, keep)
            if download is not None:
                download.followers += 1
        if download is None:
            yield progress_of(request, on_disk)
            return
        try:
            shown: DownloadProgress | None = None
            while (shown := await download.progress_after(shown)) is not None:
                yield shown
        finally:
            await self._leave(files, download)

    async def evict(self, key: str, *, force: bool = False) -> int:
        """Takes the model of that key off the disk; the bytes that are free now. See `ModelStore.evict`."""
        async with self._turn:
            found = next((one for one in await asyncio.to_thread(self.stored.models) if one.model == key), None)
            if found is None:
                raise EvictionRefusedError("not_found", f"this worker's disk has no model {key!r} from a hub")
            if found.in_use:
                raise EvictionRefusedError("file_in_use", f"{key} is in use on this worker")
            if not (found.own or force):
                message = (
                    f"{key} was not fetched by Stoker: it was found in the user's own cache of the hub; "
                    "force takes it away all the same"
                )
                raise EvictionRefusedError("file_not_own", message)
            return await self._remove(key, found.files, "asked for")

    # --- one download -----------------------------------------------------------------------------------------------

    def _request(self, files: ModelFiles, peers: Sequence[Peer]) -> DownloadRequest:
        cached = self.cached(files)
        return DownloadRequest(
            cache_dir=self._cache_dir,
            repo=files.source.repo,
            revision=files.revision,
            files=files.files,
            verified=tuple(one.path for one in files.files if self._records.is_verified(cached.pointer(one.path))),
            peers=tuple(peers),
            mesh_folder=self._mesh_folder,
        )

    def _is_there(self, cached: CachedRepo, files: ModelFiles) -> bool:
        """Whether all of it is there, and right: what other tools have fetched is read for its checksum, once."""

        def right(file: ModelFile) -> bool:
            return cached.holds(file) and (not file.sha256 or self._records.is_verified(cached.pointer(file.path)))

        return all(map(right, files.files))

    async def _start(
        self, request: DownloadRequest, files: ModelFiles, on_disk: Mapping[str, int], keep: Sequence[str]
    ) -> DownloadProcess:
        """Its process, with room for it. Raises ModelSourceError where there is none."""
        promise, evicted = await self._promise_room(self.cached(files), files, keep)
        download = self._running[files.key] = DownloadProcess(
            request, on_disk, {**os.environ, **self._environment}, self._silence_seconds, evicted=evicted
        )
        self._promises[files.key] = promise
        self.stored.look_again()
        return download

    async def _leave(self, files: ModelFiles, download: DownloadProcess) -> None:
        """The last who leaves ends the process. Nothing is awaited before it is known that it is ending."""
        download.followers -= 1
        if download.followers == 0:
            del self._running[files.key]  # first, so that nobody joins what is being ended
            self._room.release(self._promises.pop(files.key))
        for path in download.verified:
            self._records.verified(self.cached(files).pointer(path))
        self._held.look_again()
        self.stored.look_again()
        if download.followers == 0:
            await download.stop()

    # --- room -------------------------------------------------------------------------------------------------------

    async def _promise_room(
        self, cached: CachedRepo, files: ModelFiles, keep: Sequence[str]
    ) -> tuple[Path, tuple[str, ...]]:
        """The promise of room for what is missing, and the keys of the models that had to go for it.

        Raises ModelSourceError.
        """
        evicted: tuple[str, ...] = ()
        room, promise = await self._ask_for_room(cached, files)
        if promise is None and self._evict_for_room:
            evicted = await self._make_room(room, files, keep)
            room, promise = await self._ask_for_room(cached, files)
        if promise is None:
            others = f" beside {format_bytes(room.promised)} for other downloads" if room.promised else ""
            message = (
                f"{files.source} needs {format_bytes(room.missing)} more on the disk of {self._cache_dir}{others}, "
                f"where {format_bytes(room.free)} are free: make room, or set HF_HOME to a larger disk"
            )
            raise ModelSourceError("disk_full", message, retryable=True)
        return promise, evicted

    async def _ask_for_room(self, cached: CachedRepo, files: ModelFiles) -> tuple[Room, Path | None]:
        """As `DiskRoom.promise`. One that is called off meanwhile leaves no promise behind."""
        asking = asyncio.create_task(asyncio.to_thread(self._room.promise, cached, files.files))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._release_unwanted)
            raise

    def _release_unwanted(self, asking: asyncio.Task[tuple[Room, Path | None]]) -> None:
        if not asking.cancelled() and asking.exception() is None and (promise := asking.result()[1]) is not None:
            self._room.release(promise)

    async def _make_room(self, room: Room, files: ModelFiles, keep: Sequence[str]) -> tuple[str, ...]:
        """Takes away what nobody uses, unused longest first; the keys of what went. Nothing where it would not help."""
        models = await asyncio.to_thread(self.stored.models)
        chosen = choose_for_room(
            models,
            lacking=room.lacking,
            keep={files.key, *keep},
            used_before=self.stored.now() - JUST_USED_SECONDS,
        )
        for model in chosen or ():
            await self._remove(model.model, model.files, f"room for {files.source}")
        return tuple(model.model for model in chosen or ())

    async def _remove(self, key: str, files: Sequence[StoredFile], reason: str) -> int:
        try:
            freed = await asyncio.to_thread(self.stored.remove, key, files)
        except OSError as error:
            message = f"{key} cannot be taken off the disk: {error.strerror or error} ({error.filename or 'no file'})"
            raise ModelSourceError("disk_error", message) from error
        self._held.look_again()
        _log.info("model_evicted", model=key, freed_bytes=freed, reason=reason)
        return freed
