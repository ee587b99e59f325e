"""One downloading process, and what all who wait for it are told."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

import structlog
from pydantic import ValidationError

from activities.ports import DownloadProgress
from stoker.domain.statuses import FileProgress
from stoker.model_source_error import ModelSourceError
from worker_agent.hub_download import DownloadReport
from worker_agent.hub_transfer import DownloadRequest

_log = structlog.get_logger()
_LAST_WORDS = 10  # lines of a broken program's output that are kept
_LONGEST_LINE = 1 << 20  # bytes


class DownloadProcess:
    """Runs from its making on. `verified` grows with the files that have come whole and right."""

    def __init__(
        self,
        request: DownloadRequest,
        on_disk: Mapping[str, int],
        environment: Mapping[str, str],
        silence_seconds: float,
        *,
        evicted: tuple[str, ...] = (),
    ) -> None:
        """`on_disk`: bytes that are there already, by file. `evicted`: the models that had to go for it."""
        self.followers = 0
        self.verified: frozenset[str] = frozenset()
        self._request = request
        self._evicted = evicted
        self._progress = progress_of(request, on_disk, evicted=evicted)
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
            for remark in report.remarks:
                _log.warning("download_remark", repo=self._request.repo, remark=remark)
            if report.state == "failed":
                raise ModelSourceError(report.code, report.message, retryable=report.retryable)
            self.verified = frozenset(report.verified)
            self._progress = progress_of(
                self._request, report.files, from_peers=report.from_peers, evicted=self._evicted
            )
            self._changed.set()
            if report.state == "complete":
                return
        code = await process.wait()
        message = f"the download of {self._request.repo} ended by itself, with exit code {code}: {' | '.join(words)}"
        raise ModelSourceError("download_failed", message, retryable=True)

    def _without_token(self, text: str) -> str:
        token = self._environment.get("HF_TOKEN")
        return text.replace(token, "(HF_TOKEN)") if token else text


def progress_of(
    request: DownloadRequest, on_disk: Mapping[str, int], *, from_peers: int = 0, evicted: tuple[str, ...] = ()
) -> DownloadProgress:
    """The whole's progress and each file's, given the bytes on disk by file."""
    files = tuple(
        FileProgress(path=file.path, done=on_disk.get(file.path, 0), total=file.size) for file in request.files
    )
    return DownloadProgress(
        done=sum(file.done for file in files),
        total=sum(file.total for file in files),
        files=files,
        from_peers=from_peers,
        evicted=evicted,
    )
