"""Downloads from the hub: each in a process that can be killed, and each once, however many instances wait for it."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import structlog
from huggingface_hub import constants
from pydantic import ValidationError

from activities.ports import DownloadProgress
from stoker.domain.models import ModelFiles
from stoker.domain.units import format_bytes
from stoker.model_source_error import ModelSourceError
from worker_agent.hub_cache import CachedRepo, free_space
from worker_agent.hub_download import DownloadReport
from worker_agent.hub_transfer import DownloadRequest

_log = structlog.get_logger()
_LAST_WORDS = 10  # lines of a broken program's output that are kept
_LONGEST_LINE = 1 << 20  # bytes


class HubDownloads:
    """This agent's downloads into the hub's cache at `cache_dir`, by default where the hub's library has it.

    `environment` is added to the agent's own for the downloading processes. A process of which nothing is heard for
    `silence_seconds` is ended; writing a large file back to a slow disk may take minutes.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        free_space: Callable[[Path], int] = free_space,
        silence_seconds: float = 600,
    ) -> None:
        self._cache_dir = (cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
        self._environment = {**(environment or {}), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._free_space = free_space
        self._silence_seconds = silence_seconds
        self._running: dict[DownloadRequest, _Download] = {}

    def cached(self, files: ModelFiles) -> CachedRepo:
        """Where the files are, or will be. Raises ValueError for names that would lead out of the cache."""
        return CachedRepo(self._cache_dir, files.source.repo, files.revision)

    async def fetch(self, files: ModelFiles) -> AsyncGenerator[DownloadProgress, None]:
        """Yields progress until all files are there. Raises ModelSourceError.

        Who asks for what is in work already joins in. When the last one closes its generator, or is cancelled in it,
        the process is killed; what has arrived stays, and the next time goes on from there.
        """
        request = DownloadRequest(
            cache_dir=self._cache_dir, repo=files.source.repo, revision=files.revision, files=files.files
        )
        cached = self.cached(files)
        if await asyncio.to_thread(lambda: all(map(cached.holds, files.files))):
            yield DownloadProgress(done=files.size, total=files.size)
            return
        on_disk = await asyncio.to_thread(lambda: sum(map(cached.bytes_on_disk, files.files)))
        if (download := self._running.get(request)) is None:
            self._check_room(files, files.size - on_disk)
            progress = DownloadProgress(done=on_disk, total=files.size)
            download = _Download(request, progress, {**os.environ, **self._environment}, self._silence_seconds)
            self._running[request] = download
        download.followers += 1
        try:
            shown: DownloadProgress | None = None
            while (shown := await download.progress_after(shown)) is not None:
                yield shown
        finally:
            download.followers -= 1
            if download.followers == 0:
                del self._running[request]  # first, so that nobody joins what is being ended
                await download.stop()

    def _check_room(self, files: ModelFiles, missing: int) -> None:
        promised = sum(download.missing for download in self._running.values())
        free = self._free_space(self._cache_dir)
        if missing + promised > free:
            others = f" beside {format_bytes(promised)} for other downloads" if promised else ""
            message = (
                f"{files.source} needs {format_bytes(missing)} more on the disk of {self._cache_dir}{others}, "
                f"where {format_bytes(free)} are free: make room, or set HF_HOME to a larger disk"
            )
            raise ModelSourceError("disk_full", message, retryable=True)


class _Download:
    """One downloading process, and what all who wait for it are told."""

    def __init__(
        self,
        request: DownloadRequest,
        progress: DownloadProgress,
        environment: Mapping[str, str],
        silence_seconds: float,
    ) -> None:
        self.followers = 0
        self._request, self._progress = request, progress
        self._environment, self._silence_seconds = environment, silence_seconds
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._changed.set())

    @property
    def missing(self) -> int:
        """Bytes that are yet to come."""
        return self._progress.total - self._progress.done

    async def progress_after(self, shown: DownloadProgress | None) -> DownloadProgress | None:
        """The first progress that is not `shown`; None when the download is complete. Raises its ModelSourceError."""
        while self._progress == shown:
            if self._task.done():
                self._task.result()
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._progress

    async def stop(self) -> None:
        """Returns when the process is gone."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # it was told to whoever asked

    async def _run(self) -> None:
        log = _log.bind(repo=self._request.repo, revision=self._request.revision)
        log.info("download_started", files=len(self._request.files), missing_bytes=self.missing)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "worker_agent.hub_download"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
        try:
            await self._follow(process)
            log.info("download_completed", bytes=self._progress.total)
        except asyncio.CancelledError:
            log.info("download_called_off", missing_bytes=self.missing)
            raise
        except ModelSourceError as error:
            log.warning("download_failed", code=error.code, reason=str(error), retryable=error.retryable)
            raise
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Returns when the process has told that all is there. Raises ModelSourceError."""
        stdin, stdout = cast(asyncio.StreamWriter, process.stdin), cast(asyncio.StreamReader, process.stdout)
        stdin.write(self._request.model_dump_json().encode() + b"\n")  # and stays open: the program ends with it
        words: deque[str] = deque(maxlen=_LAST_WORDS)
        while True:
            try:
                async with asyncio.timeout(self._silence_seconds):
                    line = await stdout.readline()
            except TimeoutError:
                message = f"the download of {self._request.repo} gave no sign of life for {self._silence_seconds:.0f} s"
                raise ModelSourceError("download_failed", message, retryable=True) from None
            if not line:
                break
            try:
                report = DownloadReport.model_validate_json(line)
            except ValidationError:
                words.append(self._without_token(line.decode(errors="replace").rstrip()))
                continue
            if report.state == "failed":
                raise ModelSourceError(report.code, report.message, retryable=report.retryable)
            self._progress = DownloadProgress(done=report.done, total=self._progress.total)
            self._changed.set()
            if report.state == "complete":
                return
        code = await process.wait()
        message = f"the download of {self._request.repo} ended by itself, with exit code {code}: {' | '.join(words)}"
        raise ModelSourceError("download_failed", message, retryable=True)

    def _without_token(self, text: str) -> str:
        token = self._environment.get("HF_TOKEN")
        return text.replace(token, "(HF_TOKEN)") if token else text
