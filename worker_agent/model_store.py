"""The model files on this host: those that lie here, and those that come from the hub."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from pathlib import Path

from activities.ports import DownloadProgress
from stoker.byte_source import FileSource
from stoker.domain.base import InstanceId
from stoker.domain.files import Peer
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFile, ModelFiles, ModelSource, SourceKind, shard_names
from stoker.gguf_header import GGUFError, read_profile
from stoker.model_source_error import ModelSourceError
from worker_agent.downloads import HubDownloads


class HostModelStore:
    """Satisfies `activities.ports.ModelStore`.

    `file:` sources must lie inside one of `model_dirs`, also when links are followed; `downloads` brings the others.
    """

    def __init__(self, model_dirs: Sequence[Path], downloads: HubDownloads) -> None:
        self._model_dirs = tuple(folder.expanduser().absolute() for folder in model_dirs)
        self._downloads = downloads

    async def inspect(self, path: str) -> tuple[ModelFiles, ModelProfile]:
        """Finds the file, or all shards given the first, and reads the header(s). Raises ModelSourceError."""
        return await asyncio.to_thread(self._inspect, path)

    def fetch(
        self, files: ModelFiles, *, user: InstanceId = "", peers: Sequence[Peer] = (), keep: Sequence[str] = ()
    ) -> AsyncGenerator[DownloadProgress, None]:
        """Makes the files present, or checks that they still are; see `HubDownloads.fetch`."""
        if files.source.kind is SourceKind.FILE:
            return self._check_present(files)
        return self._downloads.fetch(files, user=user, peers=peers, keep=keep)

    async def evict(self, model: str, *, force: bool = False) -> int:
        """See `HubDownloads.evict`: files that came from elsewhere than a hub are not Stoker's to take away."""
        return await self._downloads.evict(model, force=force)

    def local_path(self, files: ModelFiles) -> str:
        """The first file by its own name: llama.cpp looks for the other shards beside it."""
        first = files.files[0].path
        return first if files.source.kind is SourceKind.FILE else str(self._downloads.cached(files).pointer(first))

    def holds(self) -> tuple[str, ...]:
        """Keys of the models from the hub that lie here whole. Fit for every report: it never waits for the disk."""
        return self._downloads.holds()

    def _inspect(self, path: str) -> tuple[ModelFiles, ModelProfile]:
        source = self._source(path)
        try:
            paths = [self._allowed(Path(shard)) for shard in shard_names(source.path)]
        except ValueError as error:
            raise ModelSourceError("file_not_found", str(error)) from error
        try:
            with ExitStack() as stack:
                opened = [stack.enter_context(FileSource(path)) for path in paths]
                profile = read_profile(opened)
        except GGUFError as error:
            raise ModelSourceError(error.code, f"{path}: {error}") from error
        except OSError as error:
            raise _unreadable(error, path) from error
        files = tuple(ModelFile(path=str(path), size=shard.size) for path, shard in zip(paths, opened, strict=True))
        return ModelFiles(source=source, files=files), profile

    async def _check_present(self, files: ModelFiles) -> AsyncGenerator[DownloadProgress, None]:
        sizes = await asyncio.to_thread(lambda: [self._size(file.path) for file in files.files])
        for file, size in zip(files.files, sizes, strict=True):
            if size != file.size:
                message = (
                    f"{file.path} has {size} bytes, and had {file.size} when it was inspected: "
                    "apply the deployment again to take the file as it is now"
                )
                raise ModelSourceError("checksum_mismatch", message)
        yield DownloadProgress(done=files.size, total=files.size)

    def _size(self, path: str) -> int:
        try:
            return self._allowed(Path(path)).stat().st_size
        except OSError as error:
            raise _unreadable(error, path) from error

    def _source(self, path: str) -> ModelSource:
        try:
            return ModelSource(kind=SourceKind.FILE, path=path)
        except ValueError as error:
            raise ModelSourceError("path_not_allowed", f"{path!r} is no path of a model: {error}") from error

    def _allowed(self, path: Path) -> Path:
        """`path` as given. Raises ModelSourceError when it is, or links to, something outside of the allowed folders.

        The answer for what lies outside is the same whether it exists or not.
        """
        resolved = Path(os.path.realpath(path))  # unlike Path.resolve, it never raises
        if not any(resolved.is_relative_to(os.path.realpath(folder)) for folder in self._model_dirs):
            folders = ", ".join(map(str, self._model_dirs)) or "(none)"
            message = (
                f"{path} is not inside a folder that this worker serves models from ({folders}): "
                "put the file there, or start the worker with --model-dir naming its folder"
            )
            raise ModelSourceError("path_not_allowed", message)
        return path


def _unreadable(error: OSError, path: str) -> ModelSourceError:
    where = error.filename or path
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ModelSourceError("file_not_found", f"there is no file {where} on this worker")
    if isinstance(error, PermissionError):
        return ModelSourceError("access_denied", f"this worker may not read {where}: {error.strerror}")
    return ModelSourceError("file_not_found", f"{where} cannot be read on this worker: {error.strerror}")
